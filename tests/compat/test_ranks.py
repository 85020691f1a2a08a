"""What the seams for runs of several ranks do, without starting one."""

import signal
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fairseq.distributed.distributed_timeout_wrapper import DistributedTimeoutWrapper
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from torch.distributed import distributed_c10d
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.multiprocessing import ProcessExitedException

from metaseq_plugin.compat import cpu_ranks, ranks
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.loss_scale import MAX_SKIPPED_IN_A_ROW
from metaseq_plugin.compat.rank_timeout import bounding_collectives
from metaseq_plugin.compat.torchrun_report import in_one_line, report

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError(f"{GLOO}pair.cc:537] Read error: Connection reset by peer"), "ended, so"),
        (RuntimeError(f"{GLOO}pair.cc:547] Connection closed by peer [127.0.0.1]:1"), "ended, so"),
        (RuntimeError(f"{GLOO}x.cc:78] Timed out waiting 4500ms for recv"), "answer for 4.5 sec"),
        (dist.DistStoreError("wait timeout after 5000ms, keys: /a"), "answer for 5 seconds"),
        (dist.DistBackendError("NCCL error: remote process exited or network error"), "ended, so"),
        (
            dist.DistBackendError("WorkNCCL(SeqNum=1) ran for 5100 milliseconds before timing out"),
            "answer for 5.1 seconds",
        ),
        (ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 7, -9), "SIGKILL"),
        (RuntimeError("Connection reset by peer"), None),  # of anything, by anyone
        (dist.DistNetworkError("EADDRINUSE: address already in use"), None),
        (RuntimeError("a bug"), None),
        (ValueError("Timed out waiting 4500ms"), None),
    ],
)
def test_only_a_lost_rank_is_called_one(error: Exception, sentence: str) -> None:
    said = ranks.lost_rank(error)
    assert said is None if sentence is None else said is not None and sentence in said


def test_one_process_says_its_mistake_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    ranks.say_once("mistake", said.append)
    assert said == ["mistake"]


@pytest.mark.parametrize(("theirs", "printed"), [("mistake", []), ("another", ["mistake"])])
def test_rank_0_speaks_for_those_with_the_same_mistake(
    monkeypatch: pytest.MonkeyPatch, theirs: str, printed: list[str]
) -> None:
    store = dist.HashStore()
    store.set(ranks.SENTENCE, theirs)
    monkeypatch.setattr(ranks, "meeting_place", lambda: (1, 2, store))
    said: list[str] = []
    ranks.say_once("mistake", said.append)
    assert said == printed
    assert store.add(ranks.HEARD, 0) == 1


def test_a_rank_speaks_where_rank_0_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(ranks, "meeting_place", lambda: (1, 2, dist.HashStore()))
    said: list[str] = []
    ranks.say_once("mistake", said.append)
    assert said == ["mistake"]


def test_rank_0_waits_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(ranks, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(ranks, "meeting_place", lambda: (0, 2, store))
    for heard, shortest, longest in ((0, 0.2, 5.0), (1, 0.0, 0.15)):
        store.add(ranks.HEARD, heard)
        started = time.monotonic()
        ranks.say_once("mistake", lambda sentence: None)
        assert shortest <= time.monotonic() - started < longest
    assert store.get(ranks.SENTENCE) == b"mistake"


def test_tensors_stay_only_in_a_step_of_a_trainer_on_the_cpu() -> None:
    original = torch.Tensor.cuda

    def train_step(trainer: Any) -> bool:
        return torch.Tensor.cuda is original

    step = cpu_ranks.staying(train_step)
    assert step(SimpleNamespace(device=torch.device("cuda")))
    assert not step(SimpleNamespace(device=torch.device("cpu")))
    assert torch.Tensor.cuda is original
    with cpu_ranks.on_the_host():
        assert torch.tensor(1.0).cuda().device.type == "cpu"


def test_the_heartbeat_timeout_is_every_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("default_pg_timeout", "default_pg_nccl_timeout")
    for name in names:
        monkeypatch.setattr(distributed_c10d, name, timedelta(minutes=30))
    init = bounding_collectives(lambda cfg: 7)

    def config(seconds: int) -> Any:
        return SimpleNamespace(distributed_training=SimpleNamespace(heartbeat_timeout=seconds))

    assert init(config(-1)) == 7
    assert distributed_c10d.default_pg_timeout == timedelta(minutes=30)
    assert init(config(90)) == 7
    assert [vars(distributed_c10d)[name] for name in names] == [timedelta(seconds=90)] * 2


@pytest.mark.parametrize("calls", [0, 1])
def test_the_heartbeat_stops_at_once(calls: int) -> None:
    wrapper = DistributedTimeoutWrapper(torch.nn.Identity(), timeout=60)
    for _ in range(calls):
        wrapper(1)
    started = time.monotonic()
    wrapper.stop_timeout()
    assert time.monotonic() - started < 5
    assert not wrapper._heartbeat_thread.is_alive()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_loss_scale": 1e-4}, r"`--min-loss-scale` must .* \(0.0001\): 29 updates in a row"),
        ({"threshold": 0.5}, f"{MAX_SKIPPED_IN_A_ROW} updates in a row .* scale 0.5. Lower --lr"),
        ({"min_loss_scale": 0.0}, f"{MAX_SKIPPED_IN_A_ROW} updates in a row"),
    ],
)
def test_overflow_for_ever_ends(options: dict, sentence: str) -> None:
    scaler = DynamicLossScaler(**options)

    def overflow_for_ever() -> None:
        for _ in range(MAX_SKIPPED_IN_A_ROW):
            with pytest.raises(OverflowError):
                scaler.check_overflow(float("inf"))

    with pytest.raises(UserError, match=sentence):
        overflow_for_ever()


def test_overflow_now_and_then_does_not_end() -> None:
    scaler = DynamicLossScaler(threshold=0.5)
    for _ in range(MAX_SKIPPED_IN_A_ROW):
        for _ in range(3):
            with pytest.raises(OverflowError):
                scaler.check_overflow(float("nan"))
        scaler.check_overflow(1.0)
        scaler.update()


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
