"""A rank that dies, hangs or refuses in the middle of a run: the others end, each with one sentence."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from tests.fairseq_runs import Ended, training_arguments, write_data
from tests.rank_runs import train_ranks

OPTIONS = ("--max-update", 50, "--disable-validation", "--no-save", "--num-workers", 0)
TIMEOUT = 5  # seconds; a busy machine must start all ranks within it


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("lost") / "data", documents=64, longest=31)


def at_update(number: int, victim: int, act: Callable[[], None]) -> Callable[[int], None]:
    """For ``prepare``: rank ``victim`` does ``act`` after the forward pass of update ``number``."""

    def prepare(rank: int) -> None:
        from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion

        forward, calls = ChunkedCrossEntropyCriterion.forward, [0]

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            output = forward(self, *args, **kwargs)
            if rank == victim and calls[0] == number:
                act()
            return output

        ChunkedCrossEntropyCriterion.forward = counting  # type: ignore[method-assign]

    return prepare


def send_myself(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def one_sentence(rank: Ended, sentence: str) -> None:
    assert rank.output.count(sentence) == 1, rank.output
    assert rank.last_line.startswith(f"fairseq-train: error: {sentence}"), rank.output
    assert "Traceback" not in rank.output


LAYOUTS = {
    "ddp": (),
    "fsdp": ("--ddp-backend", "fully_sharded", "--use-sharded-state"),
    "tp": ("--model-parallel-size", 2),
}


@pytest.mark.parametrize(
    ("layout", "num_ranks"),
    [("ddp", 2), ("fsdp", 2), ("tp", 2), pytest.param("ddp", 4, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank(tmp_path: Path, data: Path, layout: str, num_ranks: int, victim: int) -> None:
    prepare = at_update(3, victim, send_myself(signal.SIGKILL))
    options = (*OPTIONS, *LAYOUTS[layout])
    started = time.monotonic()
    ranks = train_ranks(num_ranks, data, tmp_path / "run", *options, prepare=prepare)
    assert time.monotonic() - started < 30
    assert ranks[victim].status == -signal.SIGKILL
    for rank in ranks[:victim] + ranks[victim + 1 :]:
        assert rank.status == 1, rank.output
        one_sentence(rank, "Another rank of this run ended")


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_stopped_rank(tmp_path: Path, data: Path, num_ranks: int) -> None:
    prepare = at_update(3, 1, send_myself(signal.SIGSTOP))
    ranks = train_ranks(
        num_ranks, data, tmp_path / "run", *OPTIONS, "--heartbeat-timeout", TIMEOUT,
        prepare=prepare, grace=4,
    )  # fmt: skip
    assert ranks[1].status == -signal.SIGKILL  # by the harness; a stopped process cannot end itself
    others = ranks[:1] + ranks[2:]
    assert [rank.status for rank in others] == [1] * len(others), others
    assert any(f"did not answer for {TIMEOUT} seconds" in rank.output for rank in others)
    for rank in others:
        one_sentence(rank, "Another rank of this run ")


def fail_as(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_bug_of_one_rank_keeps_its_traceback(tmp_path: Path, data: Path) -> None:
    prepare = at_update(3, 1, fail_as(RuntimeError("a bug")))
    ranks = train_ranks(2, data, tmp_path / "run", *OPTIONS, prepare=prepare)
    assert [rank.status for rank in ranks] == [1, 1]
    one_sentence(ranks[0], "Another rank of this run ended")
    assert "Traceback" in ranks[1].output
    assert ranks[1].last_line == "RuntimeError: a bug"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp", "tp"])
@pytest.mark.parametrize("step", ["train", "valid"])
def test_rank_without_memory_ends_the_run(
    tmp_path: Path, data: Path, layout: str, step: str
) -> None:
    """Where others wait inside the model, it cannot leave out a batch as fairseq would."""
    out_of_memory = fail_as(torch.OutOfMemoryError("CUDA out of memory"))
    options = ("--max-update", 3, "--no-save", "--batch-size-valid", 1, *LAYOUTS[layout])
    number = 3 if step == "train" else 4
    started = time.monotonic()
    ranks = train_ranks(
        2, data, tmp_path / "run", *options, prepare=at_update(number, 1, out_of_memory)
    )
    assert time.monotonic() - started < 30
    assert [rank.status for rank in ranks] == [1, 1], ranks
    one_sentence(ranks[0], "Another rank of this run ended")
    assert ranks[1].last_line == "torch.OutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize(
    "num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)], ids=["tp", "tp x ddp"]
)
def test_parts_of_a_model_stop_at_the_same_time(tmp_path: Path, data: Path, num_ranks: int) -> None:
    def late(rank: int) -> None:
        from fairseq.trainer import Trainer

        own_time = Trainer._local_cumulative_training_time

        def later(trainer: Any) -> float:
            passed = 3_600.0 if rank % 2 and trainer.get_num_updates() >= 2 else 0.0
            return float(own_time(trainer)) + passed

        Trainer._local_cumulative_training_time = later

    ranks = train_ranks(
        num_ranks, data, tmp_path / "run", *OPTIONS, "--stop-time-hours", 0.5, *LAYOUTS["tp"],
        "--heartbeat-timeout", TIMEOUT, prepare=late,
    )  # fmt: skip
    assert [rank.status for rank in ranks] == [0] * num_ranks, ranks
    assert "stop_time_hours: 0.5 hour(s)" in ranks[0].output


@pytest.mark.parametrize("option", ["--decoder-layers", "--decoder-leyers"])
def test_mistake_of_all_ranks_is_said_once(tmp_path: Path, data: Path, option: str) -> None:
    ranks = train_ranks(4, data, tmp_path / "run", *OPTIONS, option, 0)
    assert [rank.status for rank in ranks] == [2] * 4, ranks
    assert "fairseq-train: error: " in ranks[0].last_line
    assert option in ranks[0].last_line
    for rank in ranks[1:]:
        assert "fairseq-train: error" not in rank.output
        assert "Traceback" not in rank.output


@pytest.mark.slow
def test_mistake_of_one_rank_is_said_by_it(tmp_path: Path, data: Path) -> None:
    from metaseq_plugin.compat.errors import UserError

    def prepare(rank: int) -> None:
        if rank == 1:
            from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask

            def refuse(*args: Any, **kwargs: Any) -> None:
                raise UserError("`DATA` must be a folder, but is none here. Mount it.")

            OPTLanguageModelingTask.setup_task = refuse  # type: ignore[assignment]

    ranks = train_ranks(
        2, data, tmp_path / "run", *OPTIONS, "--heartbeat-timeout", TIMEOUT, prepare=prepare
    )
    assert [rank.status for rank in ranks] == [1, 2], ranks
    one_sentence(ranks[1], "`DATA` must be a folder")
    one_sentence(ranks[0], f"Another rank of this run did not answer for {TIMEOUT} seconds")


@pytest.mark.slow
def test_heartbeat_ends_a_rank_that_is_stuck_by_itself(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank waits for nobody, so no collective times out in it."""
    from metaseq_plugin.compat import rank_timeout

    monkeypatch.setattr(rank_timeout, "GRACE_SECONDS", 1)
    prepare = at_update(3, 1, lambda: time.sleep(60))
    ranks = train_ranks(
        2, data, tmp_path / "run", *OPTIONS, "--heartbeat-timeout", TIMEOUT, prepare=prepare
    )
    assert [rank.status for rank in ranks] == [1, 1], ranks
    one_sentence(
        ranks[1], f"This rank has trained nothing for `--heartbeat-timeout` ({TIMEOUT} seconds)"
    )


def test_heartbeat_does_not_delay_the_end(tmp_path: Path, data: Path) -> None:
    started = time.monotonic()
    ranks = train_ranks(
        2, data, tmp_path / "run", *OPTIONS, "--max-update", 2, "--heartbeat-timeout", 60
    )
    assert [rank.status for rank in ranks] == [0, 0], ranks
    assert time.monotonic() - started < 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [((), "`--min-loss-scale` must"), (("--threshold-loss-scale", 4), "The gradients must fit")],
)
def test_overflow_for_ever_ends_the_run(
    tmp_path: Path, data: Path, options: tuple, sentence: str
) -> None:
    def prepare(rank: int) -> None:
        from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion

        forward = ChunkedCrossEntropyCriterion.forward

        def exploding(self: Any, *args: Any, **kwargs: Any) -> Any:
            loss, *rest = forward(self, *args, **kwargs)
            return loss * float("inf"), *rest

        ChunkedCrossEntropyCriterion.forward = exploding  # type: ignore[method-assign]

    fp16 = ("--fp16", "--fp16-no-flatten-grads", *options)
    ranks = train_ranks(2, data, tmp_path / "run", *OPTIONS, *fp16, prepare=prepare)
    assert [rank.status for rank in ranks] == [2, 2], ranks
    one_sentence(ranks[0], sentence)
    assert sentence not in ranks[1].output
    assert not list((tmp_path / "run").glob("*.pt"))  # no crash.pt


@pytest.mark.slow
def test_torchrun_adds_one_line(tmp_path: Path, data: Path) -> None:
    folder = Path(sys.executable).parent
    arguments = training_arguments(data, tmp_path, *OPTIONS, "--decoder-layers", 0)
    done = subprocess.run(
        [folder / "torchrun", "--nproc_per_node", "2", folder / "fairseq-train", *arguments,
         "--distributed-backend", "gloo"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Gloo] Rank" not in line]
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("fairseq-train: error: `--decoder-layers` must be at least 1")
    # whichever torchrun sees first; it ends the other
    assert re.match(r"torchrun: fairseq-train failed: rank [01] ended with .* status 2", lines[1])
