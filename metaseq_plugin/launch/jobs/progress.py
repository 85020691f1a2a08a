"""What an agent learns of its ranks while they train: how far they are, and whether they hang.

The ranks write (``compat/update_clock.py``), each behind its update, into a file on this node's own disk; the agent
reads it as often as it likes. A run hangs when it made no update for ``hang_factor`` times the median of its last
updates, and for ``hang_seconds`` at least. While it starts, validates, saves or changes epochs, ``hang_seconds``
is ``BUSY_FACTOR`` times as long.
"""

import os
import statistics
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from metaseq_plugin.compat.update_clock import LAYOUT, NOT_BEGUN

BUSY_FACTOR = 6
NUM_UPDATES = 101  # of which the median is taken


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        update: the number of its updates.
        since: when it said so, in seconds of the monotonic clock; 0: it has said nothing.
        is_busy: whether what it does now is no update.
        begun: the update at which this start of it began; None: it has not begun to train.
    """

    update: int = 0
    since: float = 0.0
    is_busy: bool = True
    begun: Optional[int] = None


@contextmanager
def progress_file() -> Iterator[Path]:
    """A file for the ranks of this node, until the block ends."""
    descriptor, name = tempfile.mkstemp(prefix="metaseq_progress_")
    try:
        os.write(descriptor, bytes(LAYOUT.size))
        os.close(descriptor)
        yield Path(name)
    finally:
        os.unlink(name)


def clear(path: Path) -> None:
    """Forget the start before."""
    path.write_bytes(bytes(LAYOUT.size))


def read(path: Path) -> Progress:
    """What the ranks said last."""
    update, since, is_busy, begun = LAYOUT.unpack(path.read_bytes())
    if since == 0.0:
        return Progress()
    return Progress(update, since, bool(is_busy), None if begun == NOT_BEGUN else begun)


class HangWatch:
    """Tells whether a run hangs, of what it says of itself.

    Args:
        factor, seconds: ``hang_factor`` and ``hang_seconds``.
        begin: when the ranks were started, in seconds of the monotonic clock.
    """

    def __init__(self, factor: float, seconds: float, begin: float) -> None:
        self.factor, self.seconds, self.begin = factor, seconds, begin
        self._last = Progress()
        self._times: deque[float] = deque(maxlen=NUM_UPDATES)

    def look(self, at: Progress, now: Optional[float] = None) -> Optional[float]:
        """Seconds without an update where that is a hang, else None."""
        now = time.monotonic() if now is None else now
        if at.update > self._last.update and self._last.since and not self._last.is_busy:
            made = at.update - self._last.update
            self._times.append((at.since - self._last.since) / made)
        self._last = at
        silent = now - (at.since or self.begin)
        return silent if self.factor and silent > self.allowed(at.is_busy) else None

    def allowed(self, is_busy: bool) -> float:
        """Seconds that a run may say nothing."""
        median = statistics.median(self._times) if self._times else 0.0
        return max(self.factor * median, self.seconds * (BUSY_FACTOR if is_busy else 1))
