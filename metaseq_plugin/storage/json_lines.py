"""Files of one JSON object a line, to which a process appends while others read.

    with Lines(path) as lines:
        lines.append({"time": 1795804419.2, "kind": "save"}, durable=True)
    read_lines(path)

A line is written by one ``write`` to a file opened for appending. A line that somebody was killed in the middle of,
or that a full disk cut, stays; the next one begins on a line of its own, and whoever reads counts what is none.

Where a disk does not say that it has a line, nobody knows whether it has: the kernel may have dropped what it could not
write, and reports that once. Whoever appends the same row again has it written to the same place, and so once.
"""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

Row = Dict[str, Any]


class Unsure(NamedTuple):
    """A line that is in the file, but may not be on the disk; ``end`` is the place behind it."""

    line: bytes
    end: int


class Lines:
    """A file that rows are appended to; it and its folder are made if they are not there.

    Raises:
        OSError: it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._is_torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        self._unsure: Optional[Unsure] = None

    def append(self, row: Row, durable: bool) -> None:
        """Write one row; what JSON cannot hold is written as its text, NaN and infinity as null.

        Args:
            durable: wait until the disk has it.

        Raises:
            OSError: it could not be written, or only a part of it, or the disk does not say that it has it.
        """
        line = (json.dumps(finite(row), default=str) + "\n").encode()
        if self._unsure is not None and self._unsure.line == line:
            self._write_again(self._unsure)
        else:
            self._write(line)
            if durable:
                self._sync(line)
        self._unsure = None

    def _write(self, line: bytes) -> None:
        whole = b"\n" + line if self._is_torn else line
        written = os.write(self._descriptor, whole)
        self._is_torn = 0 < written < len(whole) or (self._is_torn and written == 0)
        if written < len(whole):  # a disk that is full takes a part; the next write says why
            os.write(self._descriptor, whole[written:])
            self._is_torn = False

    def _sync(self, line: bytes) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError:
            # Behind what this descriptor wrote, whatever others have appended since.
            self._unsure = Unsure(line, os.lseek(self._descriptor, 0, os.SEEK_CUR))
            raise

    def _write_again(self, unsure: Unsure) -> None:
        """To where it is; a descriptor for appending cannot."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, unsure.line, unsure.end - len(unsure.line))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def finite(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(path: Path) -> List[bytes]:
    """The lines of a file that are not blank; none where there is no file.

    Raises:
        OSError: something is there that cannot be read, or is no file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe may never end
            raise OSError(errno.EINVAL, "not a file", str(path))
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    return [line for line in raw.split(b"\n") if line.strip()]


def parse_row(line: bytes) -> Optional[Row]:
    """The row in a line, or None: a torn line, one that is not JSON or no object, or without a time."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    when = row.get("time") if isinstance(row, dict) else None
    if not isinstance(when, (int, float)) or isinstance(when, bool) or not abs(when) < math.inf:
        return None
    return row
