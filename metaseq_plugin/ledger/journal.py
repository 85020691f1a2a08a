"""Lines of the ledger are written, or kept until the disk takes them: a run never ends for its ledger.

A disk that is full is told once, as a warning. Up to MAX_HELD lines wait and are written with the next one that
the disk takes; of what is beyond, an event ``missing`` says how many lines, since when and why.
"""

import logging
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, NamedTuple, Optional

from metaseq_plugin.storage.json_lines import Lines, Row

logger = logging.getLogger(__name__)

MAX_HELD = 1_000


class Held(NamedTuple):
    """A line that waits."""

    lines: Lines
    row: Row
    is_durable: bool


class Journal:
    """The events and the updates of a run.

    Raises:
        OSError: a file cannot be opened for writing.
    """

    def __init__(self, events: Path, updates: Path) -> None:
        self._events, self._updates = Lines(events), Lines(updates)
        self._held: Deque[Held] = deque()
        self._dropped = 0
        self._reason: Optional[str] = None  # while the disk takes nothing
        self._since = 0.0

    @property
    def unwritten(self) -> int:
        """Lines that are not on the disk."""
        return len(self._held) + self._dropped

    def event(self, row: Row) -> None:
        """Write an event; it is on the disk when the call returns."""
        self._write(Held(self._events, row, True))

    def numbers(self, row: Row) -> None:
        """Write a line of numbers."""
        self._write(Held(self._updates, row, False))

    def close(self) -> None:
        self._events.close()
        self._updates.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _write(self, line: Held) -> None:
        self._held.append(line)
        try:
            while self._held:
                first = self._held[0]
                first.lines.append(first.row, first.is_durable)
                self._held.popleft()
            if self._dropped:
                self._events.append(self._missing(line.row), durable=True)
                self._dropped = 0
            self._reason = None
        except OSError as error:
            self._keep(error)

    def _missing(self, row: Row) -> Row:
        now = {"time": time.time(), "update": row.get("update"), "start": row.get("start")}
        return {
            **now, "kind": "missing", "lines": self._dropped, "since": self._since,
            "reason": self._reason,
        }  # fmt: skip

    def _keep(self, error: OSError) -> None:
        if self._reason is None:
            self._since = time.time()
            folder = self._events.path.parent
            logger.warning(
                f"The ledger in {folder} cannot be written ({error.strerror or error}). Training goes on; "
                f"the last {MAX_HELD:,} lines are kept until there is room."
            )
        self._reason = error.strerror or str(error)
        while len(self._held) > MAX_HELD:
            self._held.popleft()
            self._dropped += 1
