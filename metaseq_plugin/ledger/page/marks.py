"""Events as marks below the curves: what kind of thing, where on the x axis, and what the reader is told of it."""

from typing import Any, Mapping

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.history import whole
from metaseq_plugin.ledger.telling import told

HOUR = 3600.0
# Group of marks (of app.js) -> kinds of events; others have no place on the curves.
GROUPS = {
    "start": ("ready", "resume"),
    "stop": ("signal", "end", "out_of_memory", "lost_rank", "hang", "excluded"),
    "spike": ("spike", "rewind", "skipped", "overflow", "nonfinite"),
    "save": ("save",),
    "change": ("lr", "loss_scale"),
    "note": ("note",),
}
GROUP_OF: Mapping[str, str] = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


def marks(account: Account) -> list[dict[str, Any]]:
    """{"group", "update", "hours", "text"} of each; without an update (a note may have none) it stands in hours only."""
    found = []
    for event in account.events:
        group = GROUP_OF.get(event["kind"])
        if group is None:
            continue
        update = whole(event.get("update"))
        where = "" if update is None else f" at update {update:,}"
        text = f"{event['kind'].replace('_', ' ')}{where}: {told(event)}".removesuffix(": ")
        hours = (event["time"] - account.begin) / HOUR
        found.append(
            {"group": group, "update": update, "hours": float(f"{hours:.7g}"), "text": text}
        )
    return found
