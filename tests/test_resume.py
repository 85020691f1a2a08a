"""A run that stops and resumes is the run that never stopped, bit for bit."""

from pathlib import Path

import pytest
import torch

from tests.fairseq_runs import train, write_data
from tests.recorder import Recorder

UPDATES = 30
STOP = 15


# 60 documents of less than a block make 15 samples of 4. With one sample an update the stop at 15
# is the epoch's end; with two, 15 is in the middle of the second epoch of 8 updates.
CASES = {"boundary": ("--update-freq", "1"), "middle": ("--update-freq", "2")}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", CASES)
def test_resumed_run_equals_uninterrupted(tmp_path: Path, where: str, workers: int) -> None:
    data = write_data(tmp_path / "data", documents=60, longest=31)
    options = (
        "--sample-break-mode", "eos", "--num-workers", workers, "--disable-validation",
        "--lr-scheduler", "polynomial_decay", "--warmup-updates", 5, "--total-num-update", UPDATES,
        *CASES[where],
    )  # fmt: skip
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    runs = (
        ("whole", whole, UPDATES),
        ("parts", parts, STOP),
        ("parts", parts, UPDATES),
    )
    for name, recorder, updates in runs:
        ended = train(
            data, tmp_path / f"save-{name}", *options, "--max-update", updates, prepare=recorder
        )
        assert ended.status == 0, ended.output

    assert [row["update"] for row in whole.rows()] == list(range(1, UPDATES + 1))
    assert parts.rows() == whole.rows()
    first_half = [i for row in whole.rows()[:STOP] for ids in row["ids"] for i in ids]
    assert (sorted(first_half) == list(range(60))) == (where == "boundary")
    weights = [
        torch.load(tmp_path / f"save-{name}" / "checkpoint_last.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for key, tensor in weights[0]["model"].items():
        assert torch.equal(tensor, weights[1]["model"][key]), key
    moments = [state["last_optimizer_state"]["state"] for state in weights]
    for number, state in moments[0].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, moments[1][number][name]), (number, name)
