"""How the ranks of a run failed, in their own last words: a traceback, a sentence, a fatal signal.

The rank that began it says why; the others say that they lost it. The first stands first.
"""

import re
import time
from pathlib import Path
from typing import Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.launch.folders.events import Event, read_events
from metaseq_plugin.launch.folders.progress import LOGS, tail
from metaseq_plugin.launch.folders.table import event_text
from metaseq_plugin.launch.spec import LAUNCH

TAIL_BYTES = 1 << 20
MAX_LINES = 60  # of one rank's error
TRACEBACK = "Traceback (most recent call last):"
SENTENCE = re.compile(r"^[\w./-]+: error: ")
FATAL = re.compile(r"^(Fatal Python error: |terminate called |Segmentation fault|Killed$)")
CONSEQUENCE = re.compile("Another rank of this run|A rank of this run ended")
GAVE_UP = "gave_up"
FAILURES = ("failed", "hang", GAVE_UP)
SHOWN = ("update", "rank", "node")


def errors_of(save_dir: Path) -> str:
    """The last failure that was recorded, and each rank's last error.

    Raises:
        OSError: a log cannot be read.
    """
    lines = [
        event_text(event, time.time(), SHOWN)
        for event in last_failures(read_events(save_dir).events)
    ]
    logs = sorted(
        (save_dir / LAUNCH / LOGS).glob("rank-*.log"), key=lambda log: (len(log.name), log.name)
    )
    found = [(log.stem.replace("-", " "), last_error(tail(log, TAIL_BYTES))) for log in logs]
    errors = [(rank, error) for rank, error in found if error is not None]
    for rank, error in sorted(errors, key=lambda entry: CONSEQUENCE.search(entry[1]) is not None):
        lines += [f"{rank}:", *(f"  {line}" for line in map(printable, error.split("\n")))]
    return "\n".join(lines) or f"no error in the logs of {save_dir} (ranks: {len(logs)})"


def last_failures(events: Sequence[Event]) -> list[Event]:
    """The last failure, and that the run was given up for it."""
    found = [event for event in events if event["kind"] in FAILURES]
    return found[-2:] if found and found[-1]["kind"] == GAVE_UP else found[-1:]


def last_error(log: bytes) -> Optional[str]:
    """The last traceback, sentence or fatal line of a log; None where there is none."""
    lines = log.decode("utf-8", "replace").split("\n")
    for place in range(len(lines) - 1, -1, -1):
        line = lines[place].rstrip()
        if line == TRACEBACK:
            return "\n".join(cut(traceback(lines[place:])))
        if SENTENCE.match(line):
            return line
        if FATAL.match(line):
            return "\n".join(cut(paragraph(lines[place:])))
    return None


def traceback(lines: list[str]) -> list[str]:
    """From ``Traceback`` to the exception: the first line that is not indented."""
    for place, line in enumerate(lines[1:], 1):
        if line.strip() and not line.startswith((" ", "\t")):
            return lines[: place + 1]
    return lines


def paragraph(lines: list[str]) -> list[str]:
    """To the second blank line: the fatal word, and the stack below it."""
    blanks = [place for place, line in enumerate(lines) if not line.strip()]
    return lines[: blanks[1]] if len(blanks) > 1 else lines


def cut(lines: list[str]) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    half = MAX_LINES // 2
    return [*lines[:half], "  …", *lines[-half:]]
