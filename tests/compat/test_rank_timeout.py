"""``--heartbeat-timeout`` is every group's timeout, and its thread ends when it is told to."""

import multiprocessing
import signal
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.distributed.distributed_timeout_wrapper import DistributedTimeoutWrapper
from fairseq.models import distributed_fairseq_model
from torch.distributed import distributed_c10d

from metaseq_plugin.compat.rank_timeout import bounding_collectives, check_heartbeat


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


def stand_still(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    wrapper = DistributedTimeoutWrapper(torch.nn.Identity(), timeout=1, signal=number)
    wrapper(1)
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_fairseqs_own_wrapper_sends_the_signal_it_was_given(number: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=stand_still, args=(number,))
    process.start()
    process.join(30)
    assert process.exitcode == -number


def test_a_run_has_the_wrapper_that_ends_its_rank() -> None:
    wrapper = distributed_fairseq_model.DistributedTimeoutWrapper
    assert issubclass(wrapper, DistributedTimeoutWrapper)
    assert wrapper._check_heartbeat is check_heartbeat
    assert DistributedTimeoutWrapper._check_heartbeat is not check_heartbeat
