"""Which of several texts a model prefers: the likeliest; those that are equally likely share it.

A set of data rarely holds ties, but a model that knows nothing makes many: shared, they leave it at chance, where
a strict comparison would call it unbiased or a bad model of language.
"""

import math
from typing import Sequence

# Sums of the same numbers in another order, or divided by their count, differ in the last digits of fp64.
SAME = 1e-9


def shares(scores: Sequence[float]) -> list[float]:
    """Of each score its share of being the greatest: 1, or 1/k for k that are; they sum to 1."""
    greatest = max(scores)
    is_greatest = [math.isclose(score, greatest, rel_tol=SAME) for score in scores]
    return [float(this) / sum(is_greatest) for this in is_greatest]


def beats(score: float, other: float) -> float:
    """1 if ``score`` is the greater, 1/2 if they are equal, else 0."""
    return shares([score, other])[0]
