"""Run stock ``fairseq-train`` on several CPU ranks in tests, each a forked child like those of torchrun.

    ended = train_ranks(2, data, tmp_path / "run", "--max-update", 8, prepare=recorder)
    assert [rank.status for rank in ended] == [0, 0], ended

The test itself holds the store that the ranks meet in, as torchrun's agent does: its port is free and
stays taken, and the store outlives every rank. It is opened once all ranks are forked (``fork_ranks``).
"""

import multiprocessing
import os
import time
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable, Optional

import torch.distributed as dist

from tests.fairseq_runs import TIMEOUT_SECONDS, Ended, _child, training_arguments

STUCK_SECONDS = TIMEOUT_SECONDS - 20
GRACE_SECONDS = 30.0  # as torchrun, before it kills the rest of a run that has failed


def torchrun_environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """What torchrun sets for its child ``rank`` on one machine."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def fork_ranks(
    num_ranks: int, run: Callable[[int, int], None]
) -> tuple[dist.TCPStore, list[BaseProcess]]:
    """``run(rank, port)`` in a fork for every rank; they meet in the store, which must be kept.

    The store comes last. Its thread looks up the name of each rank that connects, under a lock of the C library:
    a rank that was forked at that moment would find the lock taken, and wait for ever when it connects itself.
    """
    fork = multiprocessing.get_context("fork")
    ports = fork.SimpleQueue()
    processes: list[BaseProcess] = [
        fork.Process(target=lambda rank: run(rank, ports.get()), args=(rank,))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    for _ in processes:
        ports.put(store.port)
    return store, processes


def _rank(
    rank: int,
    num_ranks: int,
    port: int,
    argv: list[str],
    log: str,
    prepare: Optional[Callable[[int], None]],
) -> None:
    os.environ.update(torchrun_environment(rank, num_ranks, port))
    before = None if prepare is None else lambda: prepare(rank)
    # fairseq reads LOCAL_RANK when it is imported, which here was before the fork.
    _child("train", [*argv, "--local_rank", str(rank)], log, os.devnull, before)


def wait_for(processes: list[Any], grace: float) -> bool:
    """Until all end; those left ``grace`` seconds after one has failed are killed. Whether in time."""
    deadline, failed = time.monotonic() + TIMEOUT_SECONDS, False
    while any(process.is_alive() for process in processes):
        if not failed and any(process.exitcode for process in processes):
            failed, deadline = True, min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()  # by SIGKILL, which reaches a stopped process too
                process.join()
            return failed
        time.sleep(0.01)
    return True


def train_ranks(
    num_ranks: int,
    data: Optional[Path],
    save_dir: Path,
    *options: Any,
    prepare: Optional[Callable[[int], None]] = None,
    grace: float = GRACE_SECONDS,
) -> list[Ended]:
    """``torchrun --nproc_per_node num_ranks fairseq-train …`` of ``train``'s tiny model on gloo.

    Args:
        prepare: runs in every child before the command, given its rank.
        grace: seconds that the other ranks have to end by themselves once one has failed; a rank
            that is then killed has status -9.
    """
    save_dir.mkdir(parents=True, exist_ok=True)
    argv = [*training_arguments(data, save_dir, *options), "--distributed-backend", "gloo"]
    logs = [save_dir / f"train-rank{rank}.log" for rank in range(num_ranks)]

    def run(rank: int, port: int) -> None:
        _rank(rank, num_ranks, port, argv, str(logs[rank]), prepare)

    _store, processes = fork_ranks(num_ranks, run)
    in_time = wait_for(processes, grace)
    output = [log.read_text() for log in logs]
    assert in_time, f"fairseq-train ran longer than {TIMEOUT_SECONDS} s\n" + "\n".join(output)
    return [Ended(process.exitcode or 0, text) for process, text in zip(processes, output)]
