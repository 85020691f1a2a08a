"""Mann and Whitney's U: do two samples come from one distribution?

Two-sided, by the normal approximation with corrections for ties and continuity, as scipy.stats.mannwhitneyu with
method="asymptotic". Good from some eight values on each side.
"""

import math
from itertools import groupby
from typing import Sequence


def p_value(sample: Sequence[float], other: Sequence[float]) -> float:
    """The probability of ranks at least as far apart as these, if both samples are of one distribution.

    Mann and Whitney 1947. U counts the pairs in which ``sample`` is the greater, a tie half. Under the hypothesis its
    mean is n m / 2 and its variance n m / 12 * (N + 1 - sum(t^3 - t) / (N (N - 1))), N = n + m, t values in each tie.
    """
    n, m = len(sample), len(other)
    total = n + m
    pooled = sorted([(value, 1) for value in sample] + [(value, 0) for value in other])
    rank_sum, nranked, ties = 0.0, 0, 0
    for _, group in groupby(pooled, key=lambda pair: pair[0]):
        members = [own for _, own in group]
        size = len(members)
        rank_sum += sum(members) * (nranked + (size + 1) / 2)
        nranked += size
        ties += size**3 - size
    u = rank_sum - n * (n + 1) / 2
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:  # all values are one
        return 1.0
    distance = max(abs(u - n * m / 2) - 0.5, 0.0)
    return math.erfc(distance / math.sqrt(2 * variance))
