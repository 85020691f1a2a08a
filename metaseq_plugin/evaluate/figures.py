"""Figures as people read them, on the page and in the card.

told(62.5), measured(measure)          # "62.50", "62.50 ± 1.2"
"""

import math
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.evaluate.task import Measure

NONE = "–"


def told(value: float, digits: int = 4) -> str:
    """``digits`` that count; "undefined" where it is no number."""
    if not math.isfinite(value):
        return "undefined"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def measured(measure: Measure) -> str:
    """Value, and how certain it is."""
    return f"{told(measure.value)} {uncertainty(measure)}".rstrip()


def uncertainty(measure: Measure) -> str:
    """``± 1.2 [60.1, 64.9]``, standard error and interval of 95 %, as far as they are known."""
    error = "" if measure.stderr is None else f"± {told(measure.stderr, 2)}"
    interval = measure.interval or ()
    ends = f"[{', '.join(told(end, 3) for end in interval)}]" if interval else ""
    return f"{error} {ends}".strip()


def spoken(measure: str) -> str:
    """A measure's name in words."""
    return measure.replace("_", " ")


def parameters(number: Optional[float]) -> str:
    """1,315,758,080 is 1.32B; one that is not known, as of a served model, is said to be unknown."""
    if number is None:
        return "unknown"
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{sign}"
    return f"{number:.0f}"


def plain(value: Any) -> str:
    """What JSON holds, on one line: texts as they are, ``a 1, b 2`` of an object."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return "not set" if value is None else str(value)
