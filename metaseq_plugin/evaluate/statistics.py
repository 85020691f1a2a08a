"""Standard errors and intervals of figures over items.

Legend: N items.
"""

import math
import random
import statistics
from typing import Callable, Sequence, TypeVar

T = TypeVar("T")

RESAMPLES = 1000
LEVEL = 0.95


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of N values and its standard error, s / sqrt(N); of a single value the error is 0."""
    if len(values) == 1:
        return values[0], 0.0
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def bootstrap(
    items: Sequence[T], figure: Callable[[Sequence[T]], float], seed: int
) -> tuple[float, tuple[float, float]]:
    """The standard error of ``figure`` over N items, and its interval of 95 %, by resampling (Efron 1979).

    Percentiles of RESAMPLES figures, each over N items drawn with replacement.
    """
    draw = random.Random(seed)
    figures = sorted(figure(draw.choices(items, k=len(items))) for _ in range(RESAMPLES))
    tail = (1 - LEVEL) / 2
    low, high = (figures[round(share * (RESAMPLES - 1))] for share in (tail, 1 - tail))
    return statistics.stdev(figures), (low, high)
