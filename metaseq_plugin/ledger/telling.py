"""What an event of the ledger says, as people read it; in the events of the page and in the chronicle.

    told({"kind": "save", "path": "runs/a", "seconds": 1.25, "bytes": 9e6, …})        # "runs/a, 1.25 s, 9 MB"

Fields that an event lacks are left out, and kinds that are not known say all their fields: a later version, or the
launcher, may have written them.
"""

from types import MappingProxyType
from typing import Any, Callable, Mapping, Optional, Sequence

from metaseq_plugin.ledger.words import duration, quantity

Event = Mapping[str, Any]
COMMON = ("time", "kind", "update", "start", "of", "format")  # of all events


def told(event: Event) -> str:
    """What an event says beside its kind and update; fields that it lacks are left out."""
    known = TELLING.get(event["kind"])
    return known(event) if known is not None else fields(event)


def fields(event: Event, names: Optional[Sequence[str]] = None) -> str:
    """``name value, …``: of those named, or of all but what every event has."""
    shown = names if names is not None else [name for name in event if name not in COMMON]
    return ", ".join(f"{name} {event[name]}" for name in shown if event.get(name) is not None)


def joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def number(event: Event, name: str, before: str = "", unit: str = "") -> str:
    value = event.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{before}{quantity(float(value), unit)}" if is_number else ""  # type: ignore[arg-type]


def took(event: Event, name: str = "seconds", after: str = "") -> str:
    value = event.get(name)
    return f"{duration(value)}{after}" if isinstance(value, (int, float)) else ""


def text(event: Event, name: str) -> str:
    return str(event[name]) if event.get(name) is not None else ""


def changed(names: Any) -> str:
    """``lr 0.0006 → 0.0003, …``, of one level or of the groups of ``resume``."""
    if not isinstance(names, Mapping):
        return ""
    said = []
    for name, pair in names.items():
        if isinstance(pair, Mapping):
            said.append(changed(pair))
        elif isinstance(pair, (list, tuple)) and len(pair) == 2:
            said.append(f"{name} {pair[0]} → {pair[1]}")
    return joined(*said)


def started(event: Event) -> str:
    layout = event.get("layout")
    ranks = layout.get("ranks") if isinstance(layout, Mapping) else None
    return joined(f"start {event.get('start')}", plural(ranks, "rank"))


def began_updating(event: Event) -> str:
    parts = (took(event, name, f" {name}") for name in ("imports", "model", "data", "step"))
    return joined(took(event), *parts)


def saved(event: Event) -> str:
    stall = took(event, "stall", " of them the run stood")
    return joined(text(event, "path"), took(event), stall, number(event, "bytes", unit="bytes"))


def validated(event: Event) -> str:
    loss, ppl = number(event, "loss", "loss "), number(event, "ppl", "perplexity ")
    return joined(text(event, "subset"), loss, ppl, took(event))


def spiked(event: Event) -> str:
    z, policy = number(event, "z", "z "), text(event, "action") or text(event, "policy")
    value = number(event, "value")
    return joined(f"{text(event, 'of')} {value}".strip(), z, policy)


def rewound(event: Event) -> str:
    factor, skipped = event.get("lr_factor"), plural(event.get("skipped_updates"), "update")
    return joined(
        f"from update {event.get('from')} to {event.get('to')}",
        f"{skipped} skipped" if skipped else "",
        number(event, "lr_factor", "learning rate × ") if factor not in (None, 1, 1.0) else "",
    )


def plural(number: Any, one: str) -> str:
    """``1 rank``, ``8 ranks``; nothing of none."""
    return f"{number} {one}{'' if number == 1 else 's'}" if number else ""


def noted(event: Event) -> str:
    return f"{text(event, 'author')}: {text(event, 'text')}".removeprefix(": ")


def ended(event: Event) -> str:
    return joined(text(event, "reason"), took(event))


TELLING: Mapping[str, Callable[[Event], str]] = MappingProxyType(
    {
        "start": started,
        "ready": took,
        "first_update": began_updating,
        "resume": lambda event: joined(
            f"from {text(event, 'from')}", changed(event.get("changed"))
        ),
        "save": saved,
        "valid": validated,
        "lr": lambda event: changed(event.get("changed")),
        "loss_scale": lambda event: changed(
            {"loss scale": [event.get("before"), event.get("now")]}
        ),
        "spike": spiked,
        "rewind": rewound,
        "signal": lambda event: text(event, "name"),
        "killed": lambda event: text(event, "reason"),
        "lost_rank": lambda event: text(event, "reason"),
        "note": noted,
        "end": ended,
    }
)
