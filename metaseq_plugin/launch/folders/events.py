"""What happened to a run, as JSON lines in ``SAVE_DIR/launch/events.jsonl``.

    record(save_dir, "resumed", job="17", update=2000)
    read_events(save_dir).events        # [{"time": 1795804419.2, "kind": "resumed", "job": "17", "update": 2000}]

A line is written by one ``write`` to a file opened for appending, so agents on several nodes may write at once, and
is on the disk when ``record`` returns. A line that somebody was killed in the middle of stays; the next one begins on
a line of its own, and whoever reads counts what is no event.

The kinds: submitted, started, resumed, rank, saved_and_requeued, preempted, finished, failed, hang, restarting,
gave_up, stopped. A kind that is not known here is read all the same.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, Optional

from metaseq_plugin.launch.spec import LAUNCH
from metaseq_plugin.storage.json_lines import parse_row, read_lines

FILE = "events.jsonl"
Event = dict[str, Any]


class Events(NamedTuple):
    """What a file of events holds: those that can be read, in order, and the number of other lines."""

    events: list[Event]
    foreign: int


def record(save_dir: Path, kind: str, **fields: Any) -> None:
    """Append one event; the folder is made if it is not there.

    Args:
        fields: what JSON can hold; anything else is written as its text.

    Raises:
        OSError: the file cannot be written.
    """
    line = json.dumps({"time": round(time.time(), 3), "kind": kind, **fields}, default=str)
    append_line(save_dir / LAUNCH / FILE, line)


def append_line(path: Path, line: str) -> None:
    """Write ``line`` at the end of a file and wait for the disk; a torn line before it is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        whole = (b"\n" if is_torn else b"") + line.encode() + b"\n"
        written = os.write(descriptor, whole)
        if written < len(whole):  # a disk that is full takes a part
            raise OSError(f"{path} took {written} of {len(whole)} bytes")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_events(save_dir: Path) -> Events:
    """The events of a run; none where there is no file.

    Raises:
        OSError: the file is there and cannot be read.
    """
    lines = read_lines(save_dir / LAUNCH / FILE)
    events = [event for event in map(parse_event, lines) if event is not None]
    return Events(events, len(lines) - len(events))


def parse_event(line: bytes) -> Optional[Event]:
    """The event in a line, or None: a torn line, or one that is not ours."""
    event = parse_row(line)
    return event if event is not None and isinstance(event.get("kind"), str) else None
