"""Freed memory: returned at once where memory matters, kept where speed does."""

import multiprocessing
import platform
from multiprocessing.connection import Connection
from typing import Callable

import pytest
import torch

from benchmarks.turns import resident_bytes
from metaseq_plugin.distributed.host_memory import give_back_freed_memory, keep_freed_memory

MB = 1_000_000
LAYERS, GATHERED, KEPT = 12, 24 * MB, 500_000

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")


def growth(treat: Callable[[], None], pipe: Connection) -> None:
    """What stays resident of large blocks that come and go between small ones that stay."""
    treat()
    before = resident_bytes("VmRSS")
    small = []
    for _ in range(LAYERS):
        large = [torch.ones(GATHERED // 4) for _ in range(3)]
        small.append(torch.ones(KEPT // 4))
        del large
    pipe.send(resident_bytes("VmRSS") - before - sum(tensor.nbytes for tensor in small))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("treat", "is_kept"), [(give_back_freed_memory, False), (keep_freed_memory, True)]
)
def test_large_blocks_that_were_freed(treat: Callable[[], None], is_kept: bool) -> None:
    # A new process: in a fork, what the tests before have freed would be taken first.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=growth, args=(treat, theirs))
    child.start()
    theirs.close()  # so that a child that dies ends the wait
    grown = ours.recv()
    child.join()
    assert (grown > 3 * GATHERED - 2 * MB) if is_kept else (grown < GATHERED // 2)
