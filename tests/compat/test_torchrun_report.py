"""``torchrun`` says in one line how a ``fairseq-*`` command ended; other programs keep its report."""

import signal
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from metaseq_plugin.compat.torchrun_report import in_one_line, report


def failure(exitcode: int) -> ProcessFailure:
    return ProcessFailure(local_rank=0, pid=1, exitcode=exitcode, error_file="")


@pytest.mark.parametrize(
    ("exitcodes", "what", "status"),
    [
        ([-signal.SIGTERM, 2, 1], "rank 1 ended with exit status 2", 2),
        ([1, -signal.SIGKILL], "rank 1 was ended by SIGKILL", 1),
        ([2, 2], "rank 0 ended with exit status 2", 2),
        ([1, 1], "rank 0 ended with exit status 1", 1),
    ],
)
def test_torchrun_names_the_rank(exitcodes: list[int], what: str, status: int) -> None:
    failures = {rank: failure(code) for rank, code in enumerate(exitcodes)}
    line, exit_status = report("fairseq-train", failures)
    assert what in line
    assert exit_status == status


def test_torchrun_of_another_program_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def main(args: Any) -> None:
        raise ChildFailedError("program", {0: failure(3)})

    with pytest.raises(ChildFailedError):
        in_one_line(main)(["--nproc_per_node", "2", "train.py", "fairseq.yaml"])
    with pytest.raises(SystemExit) as caught:
        in_one_line(main)(["--nproc_per_node", "2", "/usr/bin/fairseq-train", "data"])
    assert caught.value.code == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_torchrun_that_is_ended_by_a_signal_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def main(args: Any) -> None:
        raise SignalException("", signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        in_one_line(main)(["--nproc_per_node", "2", "/usr/bin/fairseq-train", "data"])
    assert caught.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "torchrun: fairseq-train was ended by SIGTERM.\n"
