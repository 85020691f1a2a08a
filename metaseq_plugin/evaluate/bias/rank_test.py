"""Mann and Whitney's U: do two samples come from one distribution?

Two-sided, by the normal approximation with corrections for ties and continuity, as scipy.stats.mannwhitneyu with
method="asymptotic". Good from some eight values on each side.
"""

import math
from typing import Sequence

from metaseq_plugin.evaluate.statistics import mann_whitney


def p_value(sample: Sequence[float], other: Sequence[float]) -> float:
    """The probability of ranks at least as far apart as these, if both samples are of one distribution.

    Mann and Whitney 1947. Under the hypothesis the mean of U is n m / 2 and its variance n m / 12 * (N + 1 - sum(t^3 - t) / (N (N - 1))), N = n + m, t values in each tie.
    """
    n, m = len(sample), len(other)
    total = n + m
    u, ties = mann_whitney(sample, other)
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:  # all values are one
        return 1.0
    distance = max(abs(u - n * m / 2) - 0.5, 0.0)
    return math.erfc(distance / math.sqrt(2 * variance))
