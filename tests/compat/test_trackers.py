"""What is to watch a run must be installed: refused before the run, and only where it is asked for."""

from pathlib import Path

import pytest

from metaseq_plugin.compat import trackers
from metaseq_plugin.compat.errors import UserError
from tests.fairseq_runs import run_fairseq, training_arguments, write_data

NOTHING = {"tensorboard_logdir": None, "wandb_project": None, "aim_repo": None, "azureml_logging": False}  # fmt: skip


def nothing_installed() -> None:
    vars(trackers)["find_spec"] = lambda name: None


def test_a_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    arguments = training_arguments(write_data(tmp_path / "data"), tmp_path / "run")
    ended = run_fairseq(
        "train", *arguments, "--tensorboard-logdir", tmp_path / "tb", log_dir=tmp_path,
        prepare=nothing_installed,
    )  # fmt: skip
    assert ended.status == 2
    assert ended.said == (
        "fairseq-train: error: `--tensorboard-logdir` must have TensorBoard installed, but it is not. "
        "Run `python -m pip install tensorboard`, or leave it out.\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "install"),
    [
        ("tensorboard_logdir", "tb", "pip install tensorboard`"),
        ("wandb_project", "p", "pip install wandb`"),
        ("aim_repo", ".", "pip install aim`"),
        ("azureml_logging", True, "pip install azureml-core`"),
        ("mlflow_experiment", "opt", "pip install mlflow`"),
    ],
)
def test_each_names_its_package(
    field: str, value: object, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trackers.check_trackers(NOTHING)
    with pytest.raises(UserError, match=f"^`--{field.replace('_', '-')}` must have .*{install}"):
        trackers.check_trackers({**NOTHING, field: value})


def test_one_of_two_modules_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda module: module == "tensorboardX")
    trackers.check_trackers({**NOTHING, "tensorboard_logdir": "tb"})


def test_a_folder_without_code_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_a_folder").mkdir()  # as W&B leaves one where it runs
    monkeypatch.syspath_prepend(tmp_path)
    assert not trackers.is_installed("only_a_folder")
    assert not trackers.is_installed("nothing_of_this_name.core")
    assert trackers.is_installed("json")
