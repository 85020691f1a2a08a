"""The chronicle of a run: what happened and what people noted, by day, as Markdown; OPT's was kept by hand.

    print(chronicle(account))

A day has its entries in order, in UTC, and a last line on where the run stood. Routine events (saves, validations,
overflows, the launcher's ranks) between two others are one entry a kind. The loss curve of the whole run stands at the top.
"""

from itertools import groupby
from typing import Any, Dict, List, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.ledger.account import KILLED, Account, Point
from metaseq_plugin.ledger.telling import told
from metaseq_plugin.ledger.words import clock, day, duration, quantity
from metaseq_plugin.report.screen import BEGINNINGS, count, loss_curve

Event = Mapping[str, Any]
COLUMNS = 80
# What is told of many in a row: the fields whose first and last are shown.
ROUTINE: Mapping[str, Sequence[str]] = {
    "save": (), "valid": ("loss",), "overflow": ("loss_scale",), "loss_scale": (), "rank": (), "lr": (),
}  # fmt: skip
MERGED = {
    "save": "saves", "valid": "validations", "overflow": "overflows of the gradient",
    "loss_scale": "changes of the loss scale", "rank": "ranks placed", "lr": "changes of the learning rate",
}  # fmt: skip
STOPS = ("end", KILLED)
MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_{}[]<>#|"})


def chronicle(account: Account) -> str:
    """Markdown of all days, the first one first."""
    updates = account.updates
    lines = [
        f"# Chronicle of {plain(account.run)}",
        "",
        f"{account.update:,} updates of {quantity(account.tokens, 'tokens')} in {duration(account.wall_seconds)}; "
        f"{count(len(account.starts), 'start')}, {updates.lost:,} of {updates.done:,} updates lost; {account.state}. "
        "Times are UTC.",
    ]
    lost = {start.number: start.updates.lost for start in account.starts}
    curve = loss_curve(account, COLUMNS)
    if curve:
        lines += ["", "```text", *curve, "```"]
    for date, events in groupby(account.events, key=lambda event: day(event["time"])):
        lines += ["", f"## {date}", ""]
        for group in in_a_row(list(events)):
            lines += entries(group, lost)
        while not lines[-1]:
            lines.pop()
        stood = last_point(account.curve, date)
        if stood is not None:
            lines += ["", f"*{standing(stood)}*"]
    return "\n".join(lines) + "\n"


def in_a_row(events: Sequence[Event]) -> List[List[Event]]:
    """Routine events between two others together, by kind; every other one alone."""
    groups: List[List[Event]] = []
    routine: Dict[str, List[Event]] = {}
    for event in events:
        kind = event["kind"]
        if kind not in ROUTINE:
            routine = {}  # what comes is behind it
            groups.append([event])
        elif kind in routine:
            routine[kind].append(event)
        else:
            groups.append(routine.setdefault(kind, [event]))
    return groups


def entries(group: Sequence[Event], lost: Mapping[int, int]) -> List[str]:
    """The Markdown of one entry; ``lost``: updates, by start."""
    first, last = group[0], group[-1]
    when = clock(first["time"])
    if len(group) > 1:
        places = dict.fromkeys(place for place in (update_of(first), update_of(last)) if place)
        where = f" at updates {' to '.join(places)}" if places else ""
        until = clock(last["time"])
        when = when if when == until else f"{when}–{until}"
        return [f"- **{when}** {len(group)} {MERGED[first['kind']]}{where}{spread(group)}"]
    if first["kind"] == "note":
        return note(first, when)
    update = update_of(first)
    where = f" at update {update}" if update and first["kind"] not in BEGINNINGS else ""
    kind = first["kind"].replace("_", " ")
    text = f": {plain(told(first))}" if told(first) else ""
    number = lost.get(first.get("start", -1), 0) if first["kind"] in STOPS else 0
    after = f"; {number:,} of its updates were lost" if number else ""
    return [f"- **{when}** {plain(kind)}{where}{text}{after}"]


def note(event: Event, when: str) -> List[str]:
    """What a person wrote, as a quotation; its lines stay lines."""
    author = plain(str(event.get("author") or "someone"))
    update = update_of(event)
    where = f" at update {update}" if update else ""
    said = [f"  > {plain(line)}".rstrip() for line in str(event.get("text", "")).splitlines()]
    return [f"- **{when}** note by {author}{where}", "", *said, ""]


def spread(group: Sequence[Event]) -> str:
    """``, loss 4.5 → 3.9`` of the first and the last; and the seconds of one."""
    said = ""
    for name in ROUTINE[group[0]["kind"]]:
        values = [event[name] for event in (group[0], group[-1]) if is_number(event.get(name))]
        if len(values) == 2:
            said += f", {name.replace('_', ' ')} {values[0]:.4g} → {values[1]:.4g}"
    spent = [event["seconds"] for event in group if is_number(event.get("seconds"))]
    return said + (f", {duration(sum(spent) / len(spent))} each" if spent else "")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def update_of(event: Event) -> str:
    update = event.get("update")
    return f"{update:,}" if isinstance(update, int) else ""


def last_point(curve: Sequence[Point], date: str) -> Optional[Point]:
    """The last place on the curve that a day has."""
    return next((point for point in reversed(curve) if day(point.time) == date), None)


def standing(point: Point) -> str:
    """How the run stood at the end of a day."""
    said = [f"At the end of the day: update {point.update:,}"]
    for name, value in (
        ("loss", point.loss), ("gnorm", point.gnorm), ("lr", point.lr), ("loss scale", point.loss_scale),
    ):  # fmt: skip
        if value is not None:
            said.append(f"{name} {value:.4g}")
    if point.tokens_per_second is not None:
        said.append(f"{quantity(point.tokens_per_second, 'tokens/s')}")
    return ", ".join(said)


def plain(text: str) -> str:
    """``text`` on one line, without what Markdown or a terminal would obey."""
    return printable(text).translate(MARKDOWN)
