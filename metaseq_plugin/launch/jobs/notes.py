"""The events of a run as its agent writes them: a disk that takes none of them does not end the agent, nor the run.

    notes = Notes(save_dir, job)
    notes.record("started", start=0)
    notes.events()                    # of the job, in all its starts

An event that cannot be written is said in the agent's log (its standard error), and waits: it is written with the next
one that the disk takes, with its own time. ``events`` has those that wait, too: what is decided by them goes on.
"""

import logging
import time
from pathlib import Path
from typing import Any

from metaseq_plugin.launch.folders.events import Event, read_events, record

logger = logging.getLogger(__name__)


class Notes:
    """Of one job.

    Attributes:
        waiting: the events that are not written, in order.
    """

    def __init__(self, save_dir: Path, job: str) -> None:
        self._save_dir, self._job = save_dir, job
        self.waiting: list[Event] = []
        self._is_unread = False

    @property
    def may_lack_some(self) -> bool:
        """Whether the file cannot have all of them, so that an agent after this one knows less."""
        return bool(self.waiting) or self._is_unread

    def record(self, kind: str, **fields: Any) -> None:
        """Write an event, and those that wait."""
        now = round(time.time(), 3)
        self.waiting.append({"kind": kind, "time": now, "job": self._job, **fields})
        try:
            while self.waiting:
                record(self._save_dir, **self.waiting[0])
                del self.waiting[0]
        except OSError as error:
            why = error.strerror or error
            logger.error(
                f"The run goes on, but its events in {self._save_dir} cannot be written ({why}): "
                f"{kind} {fields}"
            )

    def events(self) -> list[Event]:
        """Of this job, in all its starts."""
        written: list[Event] = []
        try:
            written = read_events(self._save_dir).events
        except OSError as error:
            self._is_unread = True
            why = error.strerror or error
            logger.error(f"The events in {self._save_dir} cannot be read ({why}): goes on without")
        return [event for event in (*written, *self.waiting) if event.get("job") == self._job]
