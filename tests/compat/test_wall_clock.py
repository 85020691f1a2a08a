"""``wall`` is the time of the whole run, and of nothing but the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fairseq_runs import Ended, train, write_data

OPTIONS = ("--disable-validation", "--log-format", "json", "--log-interval", 1)
HOUR = 3_600


def an_hour_later() -> None:
    """For ``prepare``: the trainer's clock is an hour ahead when it is read for a checkpoint."""
    from fairseq.trainer import Trainer

    seconds = Trainer.cumulative_training_time
    Trainer.cumulative_training_time = lambda trainer: seconds(trainer) + HOUR


def walls(ended: Ended) -> list[float]:
    assert ended.status == 0, ended.output
    lines = [line.split(" | ")[-1] for line in ended.output.splitlines() if "train_inner" in line]
    return [float(json.loads(line)["wall"]) for line in lines]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("wall") / "data")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 11])  # in the middle of an epoch, and at its end
def test_a_resumed_run_counts_on(data: Path, tmp_path: Path, stop: int) -> None:
    train(data, tmp_path, *OPTIONS, "--max-update", stop, prepare=an_hour_later)
    found = walls(train(data, tmp_path, *OPTIONS, "--max-update", stop + 2))
    assert len(found) == 2
    assert all(HOUR <= seconds < HOUR + 60 for seconds in found), found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--finetune-from-model", "--reset-meters"])
def test_a_run_that_begins_anew_counts_from_0(data: Path, tmp_path: Path, how: str) -> None:
    """And so --stop-time-hours does not count the hours of the model that it begins with."""
    train(data, tmp_path / "a", *OPTIONS, "--max-update", 3, prepare=an_hour_later)
    source = tmp_path / "a/checkpoint_last.pt"
    options: tuple[Any, ...] = (how, source)
    if how == "--reset-meters":
        options = (how, "--restore-file", source)
    found = walls(
        train(data, tmp_path / "b", *OPTIONS, *options, "--stop-time-hours", 0.5, "--max-update", 6)
    )
    assert len(found) == (6 if how == "--finetune-from-model" else 3)
    assert all(seconds < 60 for seconds in found), found
