"""``--save-dir`` is looked at, not touched, until something is written into it."""

import os
from pathlib import Path

import pytest
from fairseq.checkpoint_utils import verify_checkpoint_directory

from metaseq_plugin.compat.checkpoint_errors import check_writable
from metaseq_plugin.compat.errors import UserError
from tests.fairseq_runs import Ended, run_fairseq, training_arguments, write_data


def run(folder: Path, *options: object) -> Ended:
    """A run into ``folder/run``, which nobody has made."""
    arguments = training_arguments(write_data(folder / "data"), folder / "run", *options)
    return run_fairseq("train", *arguments, "--max-update", 1, log_dir=folder)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--no-save",), 0),
        (("--lr", "-1"), 2),
        (("--decoder-attention-heads", 3), 2),
        (("--restore-file", "none.pt"), 2),
        (("--model-parallel-size", 2), 2),
    ],
)
def test_a_run_that_saves_nothing_leaves_no_folder(
    tmp_path: Path, options: tuple[object, ...], status: int
) -> None:
    ended = run(tmp_path, *options)
    assert ended.status == status, ended.output
    assert not (tmp_path / "run").exists()


def test_a_run_makes_its_folder(tmp_path: Path) -> None:
    assert run(tmp_path).status == 0
    assert (tmp_path / "run" / "checkpoint_last.pt").is_file()


def test_what_is_called_dummy_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("weights")
    (tmp_path / "run" / "dummy").symlink_to(tmp_path / "precious")
    assert run(tmp_path).status == 0
    verify_checkpoint_directory(str(tmp_path / "run"))  # for models of fairseq's
    assert (tmp_path / "run" / "dummy").is_symlink()
    assert (tmp_path / "precious").read_text() == "weights"


def test_fairseqs_models_have_their_folder_at_once(tmp_path: Path) -> None:
    verify_checkpoint_directory(str(tmp_path / "a" / "run"))
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "run"]
    assert not list((tmp_path / "a" / "run").iterdir())


def test_the_nearest_parent_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_writable(tmp_path / "a" / "b")
    for wrong in ("file", "file/run", "link", "link/run"):
        with pytest.raises(
            UserError, match=rf"^`--save-dir` must be .* \(\S+/{wrong.split('/')[0]} is no folder"
        ):
            check_writable(tmp_path / wrong)
    # root, whom tests often run as, may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} does not permit it"):
        check_writable(tmp_path / "a" / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
