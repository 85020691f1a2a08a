"""The other ranks of a model, started on this machine as torchrun would start them, and watched.

    started = StartedRanks(4, ["-c", "…"])     ranks 1, 2 and 3; this process is rank 0
    started.wait_until_met()                    until they have all connected to ``started.store``
    started.reason()                            "Rank 2 … ended by SIGKILL", once one has
    started.close()

Each is a new interpreter that knows its place from the variables that torchrun sets (so this file knows
nothing of models), in a session of its own: Ctrl-C reaches rank 0, which lets the others go. One that ends
unasked takes the rest with it, so that rank 0, which may wait for any of them in an exchange, fails at once.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from datetime import timedelta
from typing import Callable, Optional, Sequence

import torch
import torch.distributed as dist

from metaseq_plugin.compat.errors import LostRank

RUN_ID = "metaseq_plugin"  # tells a rank that it was started here
HOST = "127.0.0.1"
LOOPBACK = "lo"
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 10.0  # for ranks that have been let go
SECONDS_TO_NOTICE = 3.0  # that a rank, whose connection is gone, has ended
KEPT = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")  # as the user has set them
MEETING = "decoding_ranks/met"


def is_started_here() -> bool:
    """Whether this process is a rank that ``StartedRanks`` started."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID


def say_met() -> None:
    """In a rank that was started: rank 0 may go on to make groups."""
    port = int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, wait_for_workers=False)
    store.add(MEETING, 1)


def threads_of_each(num_ranks: int) -> int:
    """Threads with which each of several ranks on this machine computes, where nobody said how many."""
    return max(1, torch.get_num_threads() // num_ranks)


class StartedRanks:
    """Ranks 1 … ``num_ranks`` - 1 of this machine.

    Args:
        arguments: of the Python interpreter that each of them is.

    Attributes:
        store: where all ranks meet; this process holds it.
        lost: which rank has ended unasked, and how; None: none has.
        when_lost: called with the sentence, from a thread, when a rank has ended unasked.
    """

    def __init__(self, num_ranks: int, arguments: Sequence[str]) -> None:
        self.num_ranks = num_ranks
        self.store = dist.TCPStore(
            HOST, 0, num_ranks, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5)
        )
        self.when_lost: Callable[[str], None] = lambda sentence: None
        self.lost: Optional[str] = None
        self._is_closing = False
        self._processes = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **self.environment(rank)},
                stdin=subprocess.DEVNULL,
                stdout=2,  # what rank 0 prints may be read by a program
                start_new_session=True,
            )
            for rank in range(1, num_ranks)
        ]
        # Where this process ends before they are let go: they would look for it for minutes.
        weakref.finalize(self, kill_all, self._processes)
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def environment(self, rank: int) -> dict[str, str]:
        """The variables by which a rank knows its place."""
        return {
            "OMP_NUM_THREADS": str(threads_of_each(self.num_ranks)),
            **loopback(),
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(self.store.port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.num_ranks),
            "LOCAL_WORLD_SIZE": str(self.num_ranks),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_RUN_ID": RUN_ID,
        }

    def wait_until_met(self) -> None:
        """Return when every rank has connected; they import what they need first.

        Raises:
            LostRank: one ended instead.
        """
        while self.store.add(MEETING, 0) < self.num_ranks - 1:
            if self.lost is not None:
                raise LostRank(self.lost)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def reason(self) -> Optional[str]:
        """Which rank ended unasked, and how; None: none does. Waits a little for one to."""
        deadline = time.monotonic() + SECONDS_TO_NOTICE
        while self.lost is None and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.lost

    def close(self) -> None:
        """Wait for ranks that have been let go; what does not end is killed."""
        self._is_closing = True
        deadline = time.monotonic() + (SECONDS_TO_END if self.lost is None else 0.0)
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._is_closing:
            for rank, process in enumerate(self._processes, start=1):
                if process.poll() is not None and not self._is_closing:
                    self.lost = ended(rank, self.num_ranks, process.returncode)
                    kill_all(self._processes)
                    self.when_lost(self.lost)
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def kill_all(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.kill()


def ended(rank: int, num_ranks: int, status: int) -> str:
    """The sentence for a rank that ended unasked, with Popen's ``status``."""
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return (
        f"All {num_ranks} ranks that hold the model must run, but rank {rank} ended {how}. "
        "See what it printed, or whether memory ran out, and start again."
    )


def loopback() -> dict[str, str]:
    """The variable that keeps gloo on this machine, which need not know its own name."""
    names = [name for _, name in socket.if_nameindex()]
    return {"GLOO_SOCKET_IFNAME": LOOPBACK} if LOOPBACK in names else {}
