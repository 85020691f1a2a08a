"""A run that has ended already, started again: nothing is trained, validated or written."""

from pathlib import Path
from typing import Any

import pytest

from tests.fairseq_runs import train, write_data

EPOCH = 11  # updates


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("ended") / "data")


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """name -> when each checkpoint file was written, and what."""
    found = sorted(folder.glob("checkpoint*"))
    assert found
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "again", "said"),
    [
        (
            ("--max-update", 3), ("--max-update", 3),
            "the run has made its 3 updates (--max-update 3). Set a larger one to go on.",
        ),
        (
            ("--max-epoch", 1), ("--max-epoch", 1),
            "the run has made its 1 epochs (--max-epoch 1). Set a larger one to go on.",
        ),
        (
            ("--max-update", 3), ("--stop-time-hours", 1e-9),
            "the run has trained for 0.00 hours (--stop-time-hours 1e-09). Set more to go on.",
        ),
        (
            ("--max-update", 3), ("--stop-min-lr", 0.5, "--max-update", 9),
            "the run's learning rate has come to 0.01 (--stop-min-lr 0.5). Set a smaller one to go on.",
        ),
    ],
)  # fmt: skip
def test_nothing_to_do(data: Path, tmp_path: Path, first: Any, again: Any, said: str) -> None:
    assert train(data, tmp_path, *first).status == 0
    before = files(tmp_path)
    ended = train(data, tmp_path, *again)
    assert ended.status == 0, ended.output
    assert ended.last_line.endswith(f"nothing to do: {said}")
    assert "begin validation" not in ended.output
    assert files(tmp_path) == before


def test_a_larger_number_goes_on(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, "--max-update", EPOCH).status == 0  # ends with an epoch
    ended = train(data, tmp_path, "--max-update", EPOCH + 1)
    assert ended.status == 0, ended.output
    assert f"epoch 2 @ {EPOCH + 1} updates" in ended.output


@pytest.mark.slow
def test_a_count_that_begins_anew_is_said(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, "--max-update", 3).status == 0
    ended = train(data, tmp_path, "--max-update", 3, "--reset-optimizer")
    assert ended.status == 0, ended.output
    assert (
        "begin anew, 3 updates of the checkpoint aside: the update count, the optimizer's moments, the "
        "learning-rate schedule, the best score\n"
    ) in ended.output
    assert "@ 3 updates, score" in ended.output
