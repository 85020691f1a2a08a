"""Whose turn it is among the jobs of the local executor: so many at once, and some only after others.

The kernel keeps the turns: a slot is a locked file, and free when its holder ends, however it ends. How a job ended
is in a file of its number, on this machine, where its successors look.
"""

import fcntl
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

import psutil

SECONDS_BETWEEN_LOOKS = 0.2
DONE = "finished"


@dataclass(frozen=True)
class Queue:
    """What a job waits for.

    Attributes:
        folder: of the slots, one for all jobs of a sweep.
        max_jobs: how many run at once; None: all.
        after: the jobs that must have finished before.
    """

    folder: Path
    max_jobs: Optional[int] = None
    after: tuple[str, ...] = ()

    def failed(self) -> Optional[str]:
        """Wait for the jobs of ``after``; the first that has not finished well, or None."""
        for job in self.after:
            while is_running(job):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            if outcome(job) != DONE:
                return job
        return None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a slot, and hold it until the block ends."""
        with ExitStack() as stack:
            if self.max_jobs is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                slots = [
                    stack.enter_context((self.folder / f"slot-{slot}").open("a"))
                    for slot in range(self.max_jobs)
                ]
                while not any(is_locked_by_us(slot.fileno()) for slot in slots):
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            yield


def is_locked_by_us(descriptor: int) -> bool:
    """Lock the file if nobody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_running(job: str) -> bool:
    """Whether submitit's controller of a local job, whose number the job has, is alive."""
    try:
        return psutil.Process(int(job)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def outcome_path(job: str) -> Path:
    return Path(tempfile.gettempdir()) / f"metaseq_plugin-{os.getuid()}" / "local_jobs" / job


def outcome(job: str) -> str:
    """How a local job ended: ``DONE``, or what it was about; "" where nobody knows."""
    path = outcome_path(job)
    return path.read_text(encoding="ascii") if path.exists() else ""


def note(job: str, how: str) -> None:
    """Leave how a local job stands, for those that wait for it."""
    path = outcome_path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(how, encoding="ascii")
