"""What stands below the curves: events, starts and stops, each with its place and what the reader is told of it.

Starts and stops are those of the account, not the events: a start that was killed wrote no end.
"""

from typing import Any, Iterator, Mapping

from metaseq_plugin.ledger.account import RUNNING, Account, Start
from metaseq_plugin.ledger.history import whole
from metaseq_plugin.ledger.telling import told
from metaseq_plugin.report.page.places import Places

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
    """{"group", "update", "hours", "tokens", "text"} of each, by group; a note without an update stands in hours only."""
    along = Places(account)
    found = [mark for start in account.starts for mark in of_start(start, along)]
    for event in account.events:
        group = GROUP_OF.get(event["kind"])
        if group is not None:
            update = whole(event.get("update"))
            kind = event["kind"].replace("_", " ")
            found.append(mark(group, along.at(update, event["time"]), kind, told(event)))
    return found


def of_start(start: Start, along: Places) -> Iterator[dict[str, Any]]:
    called = f"start {start.number}"
    if start.first_update is not None:
        yield mark(START, along.at(start.first_update, start.begin), called, "")
    if start.state != RUNNING:
        ended = "" if start.reason == start.state else start.reason
        yield mark(STOP, along.at(start.last_update, start.end), f"{called} {start.state}", ended)


def mark(group: str, place: Mapping[str, Any], happened: str, more: str) -> dict[str, Any]:
    where = "" if place["update"] is None else f" at update {place['update']:,}"
    return {"group": group, **place, "text": f"{happened}{where}{': ' if more else ''}{more}"}
