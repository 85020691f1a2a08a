"""Notes and what happened, day by day."""

from typing import Any

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.page.marks import GROUP_OF
from metaseq_plugin.ledger.telling import told
from metaseq_plugin.ledger.words import clock, day


def chronicle(account: Account) -> list[dict[str, Any]]:
    days: dict[str, list[dict[str, Any]]] = {}
    for event in account.events:
        group = GROUP_OF.get(event["kind"])
        entry = {
            "time": clock(event["time"]),
            "text": event["text"] if event["kind"] == "note" else told(event),
            "author": event.get("author"),
            "group": group,
        }
        days.setdefault(day(event["time"]), []).append(entry)
    return [{"day": each, "entries": entries} for each, entries in days.items()]
