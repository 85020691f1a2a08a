"""Rows of a ledger that anybody may have written into, made such that nothing behind can stumble over them.

    row = sound(parse_row(line))       # None: no row of a ledger

A number that no run reaches (not finite, or beyond ``MOST``) is None, at any depth; so is a place that is none: a negative
update or start. A row without a time of day is no row.
"""

import math
from typing import Any, Optional

from metaseq_plugin.ledger.tally import Tally
from metaseq_plugin.storage.json_lines import Row

MOST = 1e30  # FLOPs of the largest runs are 1e26
LATEST = 253_402_300_799.0  # the end of the year 9999
MOST_UPDATES = 2**53
COUNTS = (
    "update",
    "start",
    "updates",
    "first_update",
    "from",
    "to",
    "done",
    "max_update",
    "format",
)
PLACES = ("update", "start")  # whole numbers, or nothing
DEPTH = 8  # of mappings and lists within one another


def sound(row: Optional[Row]) -> Optional[Row]:
    """``row`` without what cannot be; None where it has no time."""
    if row is None or not 0 <= row["time"] <= LATEST:
        return None
    found = {name: plain(value, name in COUNTS, DEPTH) for name, value in row.items()}
    return {
        name: None if name in PLACES and type(value) is not int else value
        for name, value in found.items()
    }


def sound_tally(tally: Optional[Tally]) -> Optional[Tally]:
    """``tally``; None where it holds what no run counts."""
    if tally is None:
        return None
    counts = (tally.start, tally.update, tally.done)
    times = (tally.began, tally.seen, *tally.accounts)
    is_one = all(0 <= count <= MOST_UPDATES for count in counts) and all(
        0 <= when <= LATEST for when in times
    )
    return tally if is_one else None


def plain(value: Any, is_count: bool = False, depth: int = DEPTH) -> Any:
    """A value of JSON; None for a number that is none of a run's, and for what is nested too deep."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        is_one = -MOST <= value <= MOST and (not is_count or 0 <= value <= MOST_UPDATES)
        return value if is_one and math.isfinite(value) else None
    if depth == 0:
        return None
    if isinstance(value, dict):
        return {name: plain(inner, name in COUNTS, depth - 1) for name, inner in value.items()}
    return [plain(inner, False, depth - 1) for inner in value]
