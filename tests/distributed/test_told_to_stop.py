"""``torchrun``, and the process that fairseq spawns ranks from, told to stop: the ranks save first."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.test_spawned_ranks import TWO_GPUS
from tests.fairseq_runs import training_arguments, write_data

BIN = Path(sys.executable).parent
OPTIONS = ("--max-update", 100_000, "--disable-validation", "--log-interval", 1, "--num-workers", 1,
           "--distributed-backend", "gloo")  # fmt: skip
SECONDS = 100


def told(words: list[Any], number: signal.Signals, log: Path) -> tuple[int, str]:
    """Exit status and output of a command that is sent ``number`` once it trains."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            words, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while "train_inner" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        return process.wait(SECONDS), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["torchrun", "spawned"])
def test_ranks_save_before_they_end(tmp_path: Path, how: str, number: signal.Signals) -> None:
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    if how == "torchrun":
        words = [BIN / "torchrun", "--nproc_per_node", "2", BIN / "fairseq-train"]
        words += training_arguments(data, run, *OPTIONS)
    else:
        arguments = training_arguments(data, run, *OPTIONS, "--distributed-world-size", 2)
        words = [sys.executable, "-c", f"import sys; sys.argv[1:] = {arguments!r}\n{TWO_GPUS}"]
    status, output = told(words, number, tmp_path / "log")
    assert status == 128 + number, output
    assert "Traceback" not in output
    (updates,) = re.findall(rf"stopped by {number.name} after (\d+) updates", output)
    state = torch.load(run / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == int(updates)
    if how == "torchrun":
        assert f"    torchrun --nproc_per_node 2 fairseq-train {data} " in output
