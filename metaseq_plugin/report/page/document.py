"""The account of runs as plain JSON, as the page's scripts take it: texts are written, numbers of curves are columns.

    document([account])         # {"title": "a", "made": "…", "runs": [{"name": "a", …}], "plots": […]}

Of several runs it also has a table that compares them. All times of day are UTC.
"""

import time
from typing import Any, Mapping, Sequence

from metaseq_plugin.ledger.account import ESTIMATED, KINDS, MEASURED, Account, Number, Start
from metaseq_plugin.ledger.telling import changed, told
from metaseq_plugin.ledger.words import SPENT, clock, day, duration, quantity, shares
from metaseq_plugin.report.chronicle import update_of
from metaseq_plugin.report.page.chronicle import chronicle
from metaseq_plugin.report.page.marks import marks
from metaseq_plugin.report.page.norms import MOST_LINES
from metaseq_plugin.report.page.plots import plots, tables
from metaseq_plugin.report.page.what import what

Json = dict[str, Any]
FIGURES = {  # the account's numbers that stand first, each with its label
    "loss": "Loss",
    "ppl": "Perplexity",
    "tokens_per_second": "Speed",
    "tflops": "Model FLOPs",
    "mfu": "MFU",
    "hfu": "HFU",
    "kwh": "Energy",
    "co2e": "CO₂e",
}
NUMBERS = {  # of the section on energy, in the order in which they follow from one another
    "model_flops": "Model FLOPs, attention as a full square",
    "model_flops_causal": "Model FLOPs, causal attention",
    "hardware_flops": "Hardware FLOPs, recomputation included",
    "device_hours": "Device-hours",
    "device_kwh": "Energy of the devices",
    "pue": "PUE",
    "kwh": "Energy at the building's meter",
    "intensity": "Carbon intensity",
    "co2e": "CO₂e",
}
START_HEADS = ["start", "began (UTC)", "took", "from update", "to", "kept", "lost", "ended", "why, and what had changed"]  # fmt: skip


def document(accounts: Sequence[Account]) -> Json:
    """All that the page shows, of at least one account."""
    names = distinct([account.run for account in accounts])
    most_norms = max(2, MOST_LINES // len(accounts))
    every = [tables(account, most_norms) for account in accounts]
    return {
        "title": f"{', '.join(names)} – metaseq report",
        "made": f"Made on {day(time.time())} at {clock(time.time())} UTC",
        "runs": [run(account, name, found) for account, name, found in zip(accounts, names, every)],
        "plots": plots(names, every, power_basis(accounts)),
        "comparison": comparison(accounts, names) if len(accounts) > 1 else None,
    }


def power_basis(accounts: Sequence[Account]) -> str:
    """How the power of all runs is known: as the weakest of them."""
    found = {account.numbers["device_kwh"].basis for account in accounts}
    return MEASURED if found == {MEASURED} else ESTIMATED


def distinct(names: Sequence[str]) -> list[str]:
    """``names``, numbered where two runs are called the same."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def run(account: Account, name: str, found: Mapping[str, Any]) -> Json:
    return {
        "name": name,
        "state": state(account),
        "figures": figures(account),
        "problems": list(account.problems),
        "what": what(account),
        "options": options(account.what.get("options")),
        "time": spent(account),
        "numbers": [[label, *number(account.numbers[key])] for key, label in NUMBERS.items()],
        "starts": {"heads": START_HEADS, "rows": [start_row(start) for start in account.starts]},
        "chronicle": chronicle(account),
        "events": [event_row(event) for event in account.events],
        "tables": found,
        "marks": marks(account),
    }


def state(account: Account) -> str:
    """One sentence: how the run stands."""
    reason = f": {account.reason}" if account.reason and account.reason != account.state else ""
    to_go = account.eta_seconds
    ahead = f", about {duration(to_go)} to go" if to_go is not None else ""
    return f"{account.path} · {account.state}{reason}{ahead}"


def figures(account: Account) -> list[list[str]]:
    of = "" if account.max_update is None else f" of {account.max_update:,}"
    lost = f", {account.updates.lost:,} lost" if account.updates.lost else ""
    found = [
        ["Updates", f"{account.update:,}{of}{lost}", ""],
        ["Tokens", quantity(account.tokens, ""), ""],
        ["Time", duration(account.wall_seconds), ""],
        ["Starts", f"{len(account.starts):,}", ""],
    ]
    return found + [[label, *number(account.numbers[key])[:2]] for key, label in FIGURES.items()]


def number(found: Number) -> list[str]:
    """Its text, where it is from, and its formula."""
    return [quantity(found.value, found.unit), found.basis, found.formula]


def options(value: Any) -> list[list[str]]:
    return (
        [[name, str(value[name])] for name in sorted(value)] if isinstance(value, Mapping) else []
    )


def spent(account: Account) -> Json:
    """The time by what it was spent on. The shares of the table add up to 100.0 %."""
    kinds = [kind for kind in KINDS if account.seconds[kind] > 0]
    texts = shares([account.seconds[kind] for kind in kinds])
    parts = [
        {"kind": kind, "label": SPENT[kind], "seconds": account.seconds[kind],
         "text": duration(account.seconds[kind]), "share": share}
        for kind, share in zip(kinds, texts)
    ]  # fmt: skip
    return {"parts": parts, "together": [duration(account.wall_seconds), "100.0 %"]}


def start_row(start: Start) -> list[str]:
    first = "–" if start.first_update is None else f"{start.first_update:,}"
    return [
        f"{start.number}", f"{day(start.begin)} {clock(start.begin)}", duration(start.end - start.begin),
        first, f"{start.last_update:,}", f"{start.updates.kept:,}", f"{start.updates.lost:,}", start.state,
        "; ".join(text for text in (start.reason, changed(start.changed)) if text),
    ]  # fmt: skip


def event_row(event: Mapping[str, Any]) -> Json:
    return {
        "time": f"{day(event['time'])} {clock(event['time'])}",
        "kind": event["kind"].replace("_", " "),
        "update": update_of(event),
        "text": told(event),
    }


def comparison(accounts: Sequence[Account], names: Sequence[str]) -> Json:
    """A row for each run."""
    heads = ["run", "state", *(label for label, *_ in figures(accounts[0]))]
    rows = [
        [name, account.state, *(" ".join([text, short_basis(basis)]).strip() for _, text, basis in figures(account))]
        for account, name in zip(accounts, names)
    ]  # fmt: skip
    return {"heads": heads, "rows": rows}


def short_basis(basis: str) -> str:
    return "(est.)" if basis == ESTIMATED else ""
