"""The chronicle on the page: the entries of ``report/chronicle.py``, by day, as the page's scripts take them."""

from itertools import groupby
from typing import Any, Sequence

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.telling import Event, told
from metaseq_plugin.ledger.words import clock, day
from metaseq_plugin.report.chronicle import MERGED, in_a_row, spread, update_of


def chronicle(account: Account) -> list[dict[str, Any]]:
    """{"day", "entries"}, the first day first; an entry has "time", "text" and, of a note, its "author"."""
    days = groupby(account.events, key=lambda event: day(event["time"]))
    return [
        {"day": date, "entries": [entry(group) for group in in_a_row(list(events))]}
        for date, events in days
    ]


def entry(group: Sequence[Event]) -> dict[str, Any]:
    """Of one event, or of routine ones in a row."""
    first, last = group[0], group[-1]
    kind, update = first["kind"].replace("_", " "), update_of(first)
    if len(group) > 1:
        places = dict.fromkeys(place for place in (update, update_of(last)) if place)
        where = f" at updates {' to '.join(places)}" if places else ""
        text = f"{len(group)} {MERGED[first['kind']]}{where}{spread(group)}"
        return {"time": clock(first["time"]), "text": text, "author": None}
    if first["kind"] == "note":
        author = str(first.get("author") or "someone")
        return {"time": clock(first["time"]), "text": str(first.get("text", "")), "author": author}
    where = f" at update {update}" if update and first["kind"] not in ("start", "ready") else ""
    text = f"{kind}{where}: {told(first)}".removesuffix(": ")
    return {"time": clock(first["time"]), "text": text, "author": None}
