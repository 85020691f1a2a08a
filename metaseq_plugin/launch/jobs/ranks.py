"""The ranks of one node: ``fairseq-train`` in processes of their own, with the variables that torchrun sets.

    ranks = Ranks(launch, place, start, progress)
    ranks.statuses()                [None, -9]: the second was killed
    ranks.signal(signal.SIGTERM)    they save and end
    ranks.kill()

fairseq's own inference reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. (What it infers from SLURM's variables
counts GPUs, so it fails on nodes without, with one task a node.) Each rank leads a session and a process group, so a
signal to the agent's group does not reach it; it ends when the agent does, however that ends. What it prints is added
to ``SAVE_DIR/launch/logs/rank-N.log``.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Callable, Optional

from metaseq_plugin.compat.update_clock import VARIABLE
from metaseq_plugin.launch.folders.explain import RESTARTS, snapshot_of
from metaseq_plugin.launch.jobs.place import Place, network_of
from metaseq_plugin.launch.spec import LAUNCH, PROGRAM, Launch

LOGS = "logs"
TORCHRUN = "torchrun"
PR_SET_PDEATHSIG = 1  # prctl(2)
# Batch systems send these to every process of a step, whose ranks do not take them.
FOR_THE_AGENT_ALONE = (signal.SIGUSR1, signal.SIGUSR2)
SECONDS_TO_DIE = 30.0  # of a killed process that waits for a disk


def log_path(save_dir: Path, rank: int) -> Path:
    return save_dir / LAUNCH / LOGS / f"rank-{rank}.log"


def program(name: str) -> str:
    """The path of a console script of this interpreter's environment."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name) or name


def words(launch: Launch) -> list[str]:
    """What follows ``fairseq-train``; ``--restore-file`` is where a run starts before its first save."""
    given = launch.spec.words()
    restore_file = launch.survival.restore_file
    return given if restore_file is None else [*given, "--restore-file", restore_file]


def own_code(save_dir: Path) -> dict[str, str]:
    """PYTHONPATH that begins with the run's snapshot of the code; nothing where it has none."""
    snapshot = snapshot_of(save_dir)
    if snapshot is None:
        return {}
    others = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {"PYTHONPATH": os.pathsep.join([str(snapshot), *others])}


def child_setup(death: signal.Signals) -> Callable[[], None]:
    """What a rank does between fork and exec: it asks for ``death`` when the agent's main thread ends."""
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death), 0, 0, 0)
        for number in FOR_THE_AGENT_ALONE:
            signal.signal(number, signal.SIG_IGN)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return prepare


class Ranks:
    """The processes of this node; the main thread makes it, as they live no longer than the thread.

    Args:
        start: which start of the job this is: 0, 1, …
        progress: path of the file in which they tell how far they are.

    Attributes:
        first: the lowest rank of the node; ``launcher="torchrun"`` has one process for all of them.
    """

    def __init__(self, launch: Launch, place: Place, start: int, progress: Path) -> None:
        self.launch, self.place, self.start, self.progress = launch, place, start, progress
        self.address, self.port = place.first_address(), place.ports(start)[0]
        resources = launch.resources
        self.first = place.node * resources.ranks_per_node
        self.is_torchrun = resources.launcher == TORCHRUN
        number = 1 if self.is_torchrun else resources.ranks_per_node
        self.numbers = list(range(self.first, self.first + number))
        self.logs = [log_path(launch.spec.save_dir, rank) for rank in self.numbers]
        self.begins = [path.stat().st_size if path.exists() else 0 for path in self.logs]
        # torchrun has ranks to end; they get SIGTERM from it.
        setup = child_setup(signal.SIGTERM if self.is_torchrun else signal.SIGKILL)
        self._processes = [
            self._begin(rank, log, setup) for rank, log in zip(self.numbers, self.logs)
        ]

    def shared_environment(self) -> dict[str, str]:
        """Variables of every rank. The last makes a run's own checkpoint go before --restore-file."""
        cpus, variables = self.launch.resources.cpus_per_rank, {}
        if cpus is not None:
            variables["OMP_NUM_THREADS"] = str(cpus)
        return {
            **variables,
            **network_of(self.address),
            **os.environ,
            RESTARTS: str(self.start + 1),
            "PYTHONUNBUFFERED": "1",
            VARIABLE: str(self.progress),
            **own_code(self.launch.spec.save_dir),
        }

    def place_of(self, rank: int) -> dict[str, str]:
        """The variables by which a rank knows its place, as torchrun sets them."""
        resources = self.launch.resources
        return {
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank - self.first),
            "GROUP_RANK": str(self.place.node),
            "WORLD_SIZE": str(resources.num_ranks),
            "LOCAL_WORLD_SIZE": str(resources.ranks_per_node),
        }

    def command(self) -> list[str]:
        """Of one process."""
        train, resources = [program(PROGRAM), *words(self.launch)], self.launch.resources
        if not self.is_torchrun:
            return [sys.executable, *train]
        return [
            sys.executable, program(TORCHRUN), f"--nnodes={resources.nodes}", f"--node-rank={self.place.node}",
            f"--nproc-per-node={resources.ranks_per_node}", f"--master-addr={self.address}",
            f"--master-port={self.port}", *train,
        ]  # fmt: skip

    def _begin(self, rank: int, log: Path, setup: Callable[[], None]) -> "subprocess.Popen[bytes]":
        own = {} if self.is_torchrun else self.place_of(rank)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(),
                env={**self.shared_environment(), **own},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=setup,
            )

    def statuses(self) -> list[Optional[int]]:
        """How each has ended, as Popen says it: -9 by SIGKILL; None: it runs."""
        return [process.poll() for process in self._processes]

    @property
    def have_ended(self) -> bool:
        return None not in self.statuses()

    def signal(self, number: int) -> None:
        """Send ``number`` to those that run."""
        for process in self._processes:
            process.send_signal(number)

    def kill(self) -> None:
        """End them all, and what they started; returns when they have ended.

        Raises:
            subprocess.TimeoutExpired: one waits for a disk that does not answer.
        """
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait(SECONDS_TO_DIE)
