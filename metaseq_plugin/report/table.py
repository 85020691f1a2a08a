"""Several runs in one table, a line each, that fits 80 columns.

print("\n".join(table(accounts, 80)))
"""

import textwrap
from typing import List, Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.launch.folders.table import brief_number, cut, shortened
from metaseq_plugin.ledger.account import ESTIMATED, Account, Number
from metaseq_plugin.ledger.words import duration, quantity

HEADERS = (
    "run",
    "state",
    "update",
    "loss",
    "valid",
    "tok/s",
    "MFU",
    "time",
    "lost",
    "energy",
    "CO2e",
)
NONE = "-"
ABOUT = "~"  # before an estimate
LEAST_NAME = 9
LEGEND = (
    "loss, valid: bits a token, the last. tok/s, MFU: means over the time in updates. "
    f"lost: updates. {ABOUT} estimated."
)


def table(accounts: Sequence[Account], columns: int) -> List[str]:
    """Header, a line for each run, and what the columns mean; wider than ``columns`` where that is too narrow."""
    cells = [cells_of(account) for account in accounts]
    widths = [max(map(len, column)) for column in zip(HEADERS, *cells, strict=True)]
    widths[0] = max(LEAST_NAME, min(widths[0], columns - sum(widths[1:]) - len(HEADERS) + 1))
    lines = [line(row, widths) for row in (HEADERS, *cells)]
    return [*lines, "", *textwrap.wrap(LEGEND, columns)]


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, state, *others = cells
    padded = [f"{shortened(first, widths[0]):<{widths[0]}}", f"{state:<{widths[1]}}"]
    padded += [f"{cell:>{width}}" for cell, width in zip(others, widths[2:], strict=True)]
    return " ".join(padded).rstrip()


def cells_of(account: Account) -> List[str]:
    numbers = account.numbers
    losses = [event["loss"] for event in account.valid if isinstance(event.get("loss"), float)]
    speed, mfu = numbers["tokens_per_second"].value, numbers["mfu"].value
    return [
        printable(account.run),
        account.state,
        brief(account.update),
        short(numbers["loss"].value),
        short(losses[-1] if losses else None),
        NONE if speed is None else brief_number(speed),
        NONE if mfu is None else f"{mfu:.1%}",
        duration(account.wall_seconds).replace(" ", ""),
        brief(account.updates.lost),
        amount(numbers["kwh"]),
        amount(numbers["co2e"]),
    ]


def brief(updates: int) -> str:
    return f"{updates}" if updates < 100_000 else brief_number(updates)


def short(value: Optional[float]) -> str:
    return NONE if value is None else f"{value:.3f}"


def amount(found: Number) -> str:
    if found.value is None:
        return NONE
    return cut((ABOUT if found.basis == ESTIMATED else "") + quantity(found.value, found.unit).replace(" ", ""), 9)  # fmt: skip
