"""Figures as people read them in the terminal, on the page and in the card; sizes and facts, too.

measured(measure), parameters(1_315_758_080)          # "55.20 ± 1.28", "1.32B"
"""

import math
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.evaluate.task import Measure

NONE = "-"
HUGE = 1e6  # as the perplexity of a model that knows nothing


def shown(value: float) -> str:
    """A figure with the digits that a reader can use, whether it is a share, a percentage or a perplexity."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.2e}" if abs(value) >= HUGE else f"{value:,.{digits(value)}f}"


def digits(value: float) -> int:
    """Behind the point."""
    return 4 if abs(value) < 1 else 2 if abs(value) < 1000 else 1


def beside(error: float, value: float) -> str:
    """A standard error with the digits of its value."""
    return shown(error) if abs(value) >= HUGE else f"{error:,.{digits(value)}f}"


def measured(measure: Measure) -> str:
    """Value, and how certain it is."""
    return f"{shown(measure.value)} {uncertainty(measure)}".rstrip()


def uncertainty(measure: Measure) -> str:
    """``± 1.28 [60.10, 64.90]``, standard error and interval of 95 %, as far as they are known."""
    if shown(measure.value) == NONE:
        return ""
    error, ends = measure.stderr, measure.interval
    parts = [
        "" if error is None else f"± {beside(error, measure.value)}",
        "" if ends is None else f"[{shown(ends[0])}, {shown(ends[1])}]",
    ]
    return " ".join(part for part in parts if part)


def spoken(measure: str) -> str:
    """A measure's name in words."""
    return measure.replace("_", " ")


def parameters(number: Optional[int]) -> str:
    """1,315,758,080 is 1.32B; one that is not known, as of a served model, is said to be unknown."""
    if number is None:
        return "unknown"
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{sign}"
    return f"{number:,}"


def plain(value: Any) -> str:
    """What JSON holds, on one line: texts as they are, ``a 1, b 2`` of an object."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return "not set" if value is None else str(value)
