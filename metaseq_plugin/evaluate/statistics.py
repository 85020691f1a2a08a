"""Standard errors and intervals of figures over items, perplexities, and the ranks of two samples.

Legend: N items.
"""

import math
import random
import statistics
from itertools import groupby
from typing import Callable, Optional, Sequence, TypeVar

T = TypeVar("T")

RESAMPLES = 1000
LEVEL = 0.95


def mean_and_error(values: Sequence[float]) -> tuple[float, Optional[float]]:
    """The mean of N values and its standard error, s / sqrt(N); None: of a single value it is not known."""
    if len(values) == 1:
        return values[0], None
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def bootstrap(
    items: Sequence[T], figure: Callable[[Sequence[T]], float], seed: int
) -> tuple[Optional[float], Optional[tuple[float, float]]]:
    """The standard error of ``figure`` over N items, and its interval of 95 %, by resampling (Efron 1979).

    Percentiles of RESAMPLES figures, each over N items drawn with replacement. Neither is known of a single item, nor
    where a figure is not finite.
    """
    if len(items) == 1:
        return None, None
    draw = random.Random(seed)
    figures = sorted(figure(draw.choices(items, k=len(items))) for _ in range(RESAMPLES))
    if not all(map(math.isfinite, figures)):
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = (figures[round(share * (RESAMPLES - 1))] for share in (tail, 1 - tail))
    return statistics.stdev(figures), (low, high)


def perplexity(nats: float) -> float:
    """exp of the mean negative log-likelihood; infinity where fp64 has no such number, as of a model that diverged."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def mann_whitney(sample: Sequence[float], other: Sequence[float]) -> tuple[float, int]:
    """U of two samples (Mann and Whitney 1947), from ranks, and the sum of t^3 - t over ties of t values.

    U counts the pairs of one value each in which that of ``sample`` is the greater, a tie half.
    """
    pooled = sorted([(value, 1) for value in sample] + [(value, 0) for value in other])
    rank_sum, nranked, ties = 0.0, 0, 0
    for _, group in groupby(pooled, key=lambda pair: pair[0]):
        members = [own for _, own in group]
        size = len(members)
        rank_sum += sum(members) * (nranked + (size + 1) / 2)
        nranked += size
        ties += size**3 - size
    return rank_sum - len(sample) * (len(sample) + 1) / 2, ties
