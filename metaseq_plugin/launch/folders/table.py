"""Standings as a table that fits the terminal, and the sentences below it."""

import textwrap
import time
from typing import Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.launch.folders.events import Event
from metaseq_plugin.launch.folders.standing import (
    FAILED,
    FINISHED,
    GAVE_UP,
    QUEUED,
    RUNS,
    STOPPED,
    UNKNOWN,
    Standing,
)  # fmt: skip

NONE = "-"
HEADERS = ("run", "state", "update", "loss", "tok/s", "ETA", "restarts", "last event")
ALIGN = "<<>>>>><"
GAP = "  "
LEAST_NAME, LEAST_EVENT = 10, 10  # columns
MAX_SENTENCES = 20
ORDER = (RUNS, QUEUED, FINISHED, FAILED, GAVE_UP, STOPPED, UNKNOWN)  # in the first line
SHORT_KINDS = {"saved_and_requeued": "requeued"}


def draw(
    rows: Sequence[Standing], columns: int, problem: str = "", now: Optional[float] = None
) -> str:
    """The table, ``columns`` wide where 80 are enough for it, and what a person should look at.

    Args:
        problem: of all runs; a sentence.
        now: seconds since 1970; default: by the clock.
    """
    now = time.time() if now is None else now
    cells = [cells_of(row, now) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEADERS, *cells)]
    room = columns - sum(widths[1:-1]) - len(GAP) * (len(HEADERS) - 1)  # for the name and the event
    name = max(LEAST_NAME, min(widths[0], room - min(widths[-1], LEAST_EVENT)))
    event = max(LEAST_EVENT, room - name)
    cells = [[shortened(first, name), *others, cut(last, event)] for first, *others, last in cells]
    lines = [line(row, [name, *widths[1:-1], event]) for row in (HEADERS, *cells)]
    return "\n".join([summary(rows), "", *lines, *sentences(rows, problem, columns)])


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of the table, as ALIGN says."""
    padded = [f"{cell:{align}{width}}" for cell, align, width in zip(cells, ALIGN, widths)]
    return GAP.join(padded).rstrip()


def cells_of(row: Standing, now: float) -> list[str]:
    update = NONE if row.update is None else str(row.update)
    return [
        printable(row.run),
        row.state,
        update if row.max_update is None else f"{update}/{row.max_update}",
        NONE if row.loss is None else f"{row.loss:.3f}",
        NONE if row.tokens_per_second is None else brief_number(row.tokens_per_second),
        NONE if row.eta_seconds is None else duration(row.eta_seconds),
        str(row.restarts),
        event_text(row.last_event, now),
    ]


def summary(rows: Sequence[Standing]) -> str:
    """``200 runs: 180 running, 20 finished``."""
    counts = {state: sum(row.state == state for row in rows) for state in ORDER}
    counts["new"] = len(rows) - sum(counts.values())
    words = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}: {words}"


def sentences(rows: Sequence[Standing], problem: str, columns: int) -> list[str]:
    """A paragraph for each run with a problem, up to MAX_SENTENCES, and the problem of all."""
    said = [f"{row.run}: {row.problem}" for row in rows if row.problem]
    left_out = len(said) - MAX_SENTENCES
    said = said[:MAX_SENTENCES]
    if left_out > 0:
        said.append(f"… and {left_out} more; --json has all of them.")
    if problem:
        said.append(problem)
    lines = [""] if said else []
    for sentence in said:
        lines += textwrap.wrap(
            printable(sentence), columns, subsequent_indent="  ", break_on_hyphens=False
        )
    return lines


def event_text(
    event: Optional[Event], now: float, shown: Sequence[str] = ("rank", "node", "attempt")
) -> str:
    """``3m failed (rank 1, node n2): loss is not finite``; ``shown``: fields in the brackets."""
    if event is None:
        return NONE
    age = now - event["time"]
    when = duration(age) if age > -1 else f"in {duration(-age)}"  # another host's clock
    kind = SHORT_KINDS.get(event["kind"], event["kind"])
    fields = [f"{name} {event[name]}" for name in shown if name in event]
    more = f" ({', '.join(fields)})" if fields else ""
    why = f": {event['reason']}" if event.get("reason") else ""
    return printable(f"{when} {kind}{more}{why}")


def duration(seconds: float) -> str:
    """12s, 3m, 4h05m, 9d03h."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{max(0, int(seconds))}s"
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def brief_number(value: float) -> str:
    """512, 9.02k, 104k, 1.2M."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def shortened(name: str, width: int) -> str:
    """A name without its middle: those of a sweep begin and end differently."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"
