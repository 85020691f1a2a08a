"""What stands below the curves: events, starts and stops, each with its place and what the reader is told of it.

Starts and stops are those of the account, not the events: a start that was killed wrote no end.
"""

from typing import Any, Iterator, Mapping, Optional

from metaseq_plugin.ledger.account import RUNNING, Account, Start
from metaseq_plugin.ledger.history import whole
from metaseq_plugin.ledger.telling import told

HOUR = 3600.0
START, STOP = "start", "stop"
# Group of marks (of app.js) -> kinds of events; others have no place on the curves.
GROUPS = {
    "spike": ("spike", "rewind", "skipped", "overflow", "nonfinite"),
    "save": ("save",),
    "change": ("lr", "loss_scale"),
    "note": ("note",),
}
GROUP_OF: Mapping[str, str] = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


def marks(account: Account) -> list[dict[str, Any]]:
    """{"group", "update", "hours", "text"} of each, by group; a note without an update stands in hours only."""
    found = [mark for start in account.starts for mark in of_start(start, account.begin)]
    for event in account.events:
        group = GROUP_OF.get(event["kind"])
        if group is not None:
            update = whole(event.get("update"))
            kind = event["kind"].replace("_", " ")
            found.append(mark(group, update, event["time"] - account.begin, kind, told(event)))
    return found


def of_start(start: Start, begin: float) -> Iterator[dict[str, Any]]:
    called = f"start {start.number}"
    if start.first_update is not None:
        yield mark(START, start.first_update, start.begin - begin, called, "")
    if start.state != RUNNING:
        ended = "" if start.reason == start.state else start.reason
        yield mark(STOP, start.last_update, start.end - begin, f"{called} {start.state}", ended)


def mark(
    group: str, update: Optional[int], seconds: float, happened: str, more: str
) -> dict[str, Any]:
    where = "" if update is None else f" at update {update:,}"
    text = f"{happened}{where}{': ' if more else ''}{more}"
    return {"group": group, "update": update, "hours": float(f"{seconds / HOUR:.7g}"), "text": text}
