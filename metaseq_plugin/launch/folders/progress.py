"""How far a run has come, by the last lines of rank 0's log: update, loss, speed.

    … | INFO | train_inner | {"epoch": 1, "loss": "8.801", "wps": "9021.4", "wpb": "512", "num_updates": "6", …}
    … | INFO | train_inner | epoch 001:      6 / 26 loss=8.801, wps=9021.4, wpb=512, num_updates=6, …

are the same line, by ``--log-format json`` and ``simple``. Only the end of the file is read. The speed is the median of
its last lines, so that one update behind a validation or a save does not make a run look slow.
"""

import json
import math
import os
import re
from pathlib import Path
from statistics import median
from typing import Mapping, NamedTuple, Optional

FIRST_LOG = "rank-0.log"
LOGS = "logs"
TAIL_BYTES = (1 << 16, 1 << 20)  # a longer look where the end is full of other words
RECENT_LINES = 9
SIMPLE = re.compile(rb"([a-z]\w*)[= ]([^,|\s]+)(?=\s*(?:[,|]|$))")


class Progress(NamedTuple):
    """What a run last said.

    Attributes:
        loss: bits a token; NaN and infinities as they are.
        tokens_per_second: of all ranks together, as fairseq counts (``wps``).
        updates_per_second: ``wps / wpb``: fairseq's own ``ups`` is 0.00 where an update takes minutes.
    """

    update: int
    loss: Optional[float] = None
    tokens_per_second: Optional[float] = None
    updates_per_second: Optional[float] = None


def read_progress(log: Path) -> Optional[Progress]:
    """The progress in a log; None where it has none yet, or is not there.

    Raises:
        OSError: it is there and cannot be read.
    """
    for most in TAIL_BYTES:
        try:
            lines = tail(log, most).split(b"\n")
        except FileNotFoundError:
            return None
        found = last_progress(lines)
        if found is not None:
            return found
    return None


def tail(path: Path, most: int) -> bytes:
    """The last ``most`` bytes of a file."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - most))
        return stream.read(most)


def last_progress(lines: list[bytes]) -> Optional[Progress]:
    last: Optional[Progress] = None
    speeds: list[tuple[float, float]] = []  # tokens and updates a second, the newest first
    for line in reversed(lines):
        row = parse_line(line)
        if row is None:
            continue
        if last is not None and update_of(row) > last.update:  # before a restart
            break
        if last is None:
            last = Progress(update_of(row), number(row, "loss"))
        tokens, tokens_of_update = number(row, "wps"), number(row, "wpb")
        if tokens and tokens_of_update and math.isfinite(tokens / tokens_of_update):
            speeds.append((tokens, tokens / tokens_of_update))
        if len(speeds) == RECENT_LINES:
            break
    if last is None or not speeds:
        return last
    return last._replace(
        tokens_per_second=median(tokens for tokens, _ in speeds),
        updates_per_second=median(updates for _, updates in speeds),
    )


def parse_line(line: bytes) -> Optional[Mapping[str, object]]:
    """The statistics in a line of training; None where there are none."""
    if b"num_updates" not in line or b"valid" in line:
        return None
    begin = line.find(b"{")
    row: dict[str, object]
    if begin >= 0:
        try:
            row = json.loads(line[begin:])
        except (ValueError, RecursionError):  # torn, or of another kind
            return None
        row = {name.removeprefix("train_"): value for name, value in row.items()}
    elif b"| train" in line:
        pairs = SIMPLE.findall(line.strip())
        row = {name.decode(): value.decode("ascii", "replace") for name, value in pairs}
    else:
        return None
    update = number(row, "num_updates")
    return row if update is not None and math.isfinite(update) else None


def update_of(row: Mapping[str, object]) -> int:
    update = number(row, "num_updates")
    assert update is not None, "parse_line has looked"
    return int(update)


def number(row: Mapping[str, object], name: str) -> Optional[float]:
    """A statistic, which fairseq writes as text; None where there is none."""
    value = row.get(name)
    if not isinstance(value, (str, int, float)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
