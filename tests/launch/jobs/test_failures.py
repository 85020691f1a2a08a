"""Why a run ended, of the statuses and last words of its ranks."""

from pathlib import Path

import pytest

from metaseq_plugin.launch.jobs.failures import (
    SILENT,
    Failure,
    first_of,
    last_words,
    memory_kills,
    why,
)

TRACEBACK = """\
2026-01-01 | INFO | fairseq_cli.train | ok
Traceback (most recent call last):
  File "x.py", line 1, in train_step
    raise RuntimeError("x")
RuntimeError: update 17 is poisoned
[rank0]:[W1127] a warning at exit
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRACEBACK, "RuntimeError: update 17 is poisoned"),
        ("x\nfairseq-train: error: `--lr` must be given.\n", "fairseq-train: error: `--lr` must be given."),
        ("torch.distributed.DistBackendError: NCCL error\n", "torch.distributed.DistBackendError: NCCL error"),
        ("[rank0]: RuntimeError: y\n[rank0]:[W1127] at exit\n", "RuntimeError: y"),
        ("only\nthis\n\n", "this"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_the_last_words_are_the_last_error_else_the_last_line(
    tmp_path: Path, text: str, words: str
) -> None:
    before = "RuntimeError: of the start before\n"
    (tmp_path / "log").write_text(before + text)
    assert last_words(tmp_path / "log", len(before)) == words


def test_sigkill_is_told_as_out_of_memory_where_the_kernel_has_counted_it() -> None:
    assert "ran out of memory" in why(3, -9, "", "n1", 7, kills=1).reason
    assert "no process for want of memory" in why(3, -9, "", "n1", 7, kills=0).reason
    assert memory_kills() >= 0


def test_only_what_the_machine_is_to_blame_for_blames_the_node() -> None:
    ecc = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    assert why(0, 1, ecc, "n1", 7, 0).blames_node
    assert why(0, -7, "", "n1", 7, 0).blames_node
    assert not why(0, 1, "RuntimeError: update 17 is poisoned", "n1", 7, 0).blames_node
    assert not why(0, -9, "", "n1", 7, 1).blames_node


def test_signals_are_named_also_those_without_a_name() -> None:
    assert "SIGSEGV" in why(0, -11, "x", "n1", 7, 0).reason
    assert "signal 40" in why(0, -40, "x", "n1", 7, 0).reason


def test_who_lost_a_rank_is_not_the_one_that_failed() -> None:
    lost = Failure(
        "fairseq-train: error: Another rank of this run ended, so this one must; see", 1, 0
    )
    own = Failure("RuntimeError: x", 1, 3)
    assert first_of([lost, own]) == own
    assert first_of([lost]) == lost


def test_of_ranks_with_the_same_mistake_the_one_that_says_it_is_asked() -> None:
    silent, said = Failure(SILENT, status=2, rank=1), Failure("`--arch` must be", status=2, rank=0)
    assert first_of([silent, said]) == said
    assert first_of([silent, silent]) == silent
    other = Failure("ValueError: x", status=1, rank=0)
    assert first_of([silent, other]) == silent
