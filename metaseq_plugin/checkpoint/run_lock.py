"""One run at a time in a save-dir: ``run.lock`` is there while one trains.

    with alone_in(Path("runs/a"), all_ranks()):
        …                                          train and save

    runs/a/run.lock       who holds it, as JSON: host, boot, process, started, since

Rank 0 takes it before anything is written and removes it at the end, also of a run that fails. A run that was
killed leaves it behind, which the next one finds out:
(1) the lock of the file (``storage/locks.py``) says it where the file system has locks for all its hosts;
(2) it is of this boot of this host: its process has gone, or another has its number since (``started``);
(3) it is of another host: the holder touches it every BEAT_SECONDS, so one that nobody touches is nobody's.
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

from metaseq_plugin.compat.checkpoint_errors import unwritable
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.storage.locks import Lock, is_at, opened, try_lock

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
BEAT_SECONDS = 5.0
WATCH_SECONDS = 30.0  # six beats
LOOK_SECONDS = 0.5
MAX_BYTES = 4_096  # of a lock file; longer ones are not ours


class Holder(NamedTuple):
    """The process that holds a save-dir."""

    host: str
    boot: str  # id of the system's start: two hosts never share one
    process: int
    started: int  # of the process, in clock ticks since the boot; tells it from one that has its number later
    since: str

    def __str__(self) -> str:
        return f"process {self.process} of {self.host} since {self.since}"


def process_start(process: int) -> Optional[int]:
    """When a process of this host started, in clock ticks since the boot; None where there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    # State and starttime, fields 3 and 22 of proc(5).
    return None if fields[0] == b"Z" else int(fields[19])


def this_process() -> Holder:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    started = process_start(os.getpid())
    assert started is not None, "this process runs"
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return Holder(socket.gethostname(), boot, os.getpid(), started, since)


def holder_in(stream: BinaryIO) -> Optional[Holder]:
    """Who a lock file names; None where it names nobody, as one that a kill left empty."""
    content = os.pread(stream.fileno(), MAX_BYTES, 0)
    try:
        found = Holder(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = zip(found, Holder.__annotations__.values(), strict=True)
    return found if all(type(value) is kind for value, kind in kinds) else None


def is_alive(path: Path, holder: Holder, lock: Lock) -> bool:
    """Whether ``holder``, whom the file names, still holds it, where the lock itself does not say so."""
    if holder.boot == this_process().boot:
        return lock is Lock.unknown and process_start(holder.process) == holder.started
    logger.info(f"{path} is of {holder}: waiting {WATCH_SECONDS:g} s for a sign of it")
    before, deadline = _signs(path), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        if _signs(path) != before:
            return True
    return False


def _signs(path: Path) -> Optional[int]:
    """What changes with each beat. Not opened: to close it would free the lock that this process has."""
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None


def take(path: Path) -> Tuple[BinaryIO, ExitStack]:
    """The lock file, taken; and what frees it again.

    Raises:
        UserError: another run holds it.
        OSError: it cannot be written.
    """
    while True:
        with ExitStack() as stack:
            stream = stack.enter_context(opened(path))
            lock, holder = try_lock(stream), holder_in(stream)
            if not is_at(stream, path):  # its holder has just ended
                continue
            if lock is Lock.held or (holder is not None and is_alive(path, holder, lock)):
                raise UserError(
                    f"`--save-dir` must be of one run at a time, but {path.parent} is in use by "
                    f"{holder or 'another run'}. Wait for it or end it, or set another. (If it no "
                    f"longer runs, remove {path}.)"
                )
            os.ftruncate(stream.fileno(), 0)
            os.pwrite(stream.fileno(), json.dumps(this_process()._asdict()).encode(), 0)
            stack.callback(_remove, stream, path)
            return stream, stack.pop_all()


def _remove(stream: BinaryIO, path: Path) -> None:
    if is_at(stream, path):
        path.unlink()


def beat(stream: BinaryIO, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        # One beat may fail; a disk that stays away ends the run when it saves.
        with suppress(OSError):
            os.utime(stream.fileno())


@contextmanager
def beating(stream: BinaryIO) -> Iterator[None]:
    """Touch the file every BEAT_SECONDS, in a thread, until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=beat, args=(stream, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def make_folder(folder: Path) -> List[Path]:
    """Make ``folder``; those that were not there before, the innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def drop_empty(folders: List[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something is in it now
            folder.rmdir()


@contextmanager
def alone_in(save_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Hold ``save_dir`` until the block ends; called on every rank. A folder in which nothing came is gone then.

    Raises:
        UserError: on all ranks: another run holds it, or it cannot be written.
    """
    with ExitStack() as stack:

        def begin() -> None:
            folder = save_dir.absolute()
            try:
                stack.callback(drop_empty, make_folder(folder))
                stream, held = take(folder / LOCK_FILE)
            except OSError as error:
                raise unwritable(save_dir, error.strerror) from error
            stack.enter_context(held)
            stack.enter_context(beating(stream))

        on_first(ranks, begin)
        yield
