"""Lock files: one process at a time, on the file systems that have locks.

    with opened(folder / "run.lock") as lock:
        state = try_lock(lock)

The lock is POSIX's. It belongs to the process, so a worker that it forks and that outlives it holds nothing, it
ends with the process however that ends, and NFS knows it on all its hosts. It is lost, too, when the process
closes any other handle of the file.
"""

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Iterator

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems
HELD = (errno.EACCES, errno.EAGAIN)


class Lock(Enum):
    """What came of trying."""

    ours = "ours"
    held = "held"  # by another process
    unknown = "unknown"  # the file system cannot say


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """``path`` for reading and writing, made if it is not there; what it holds stays.

    Raises:
        OSError: it cannot be made, or is a link (to a file that is not a lock) or no file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    with open(descriptor, "r+b", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        yield stream


def try_lock(stream: BinaryIO) -> Lock:
    """Take the lock of an ``opened`` file, if nobody has it; it is freed when the file is closed."""
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return Lock.held
        if error.errno in NO_LOCKS:
            return Lock.unknown
        raise
    return Lock.ours


def is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether ``path`` still names the open file, which its last owner may have deleted."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
