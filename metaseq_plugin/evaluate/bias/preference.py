"""Which of several texts a model prefers: the likeliest; those that are equally likely share it.

A set of data rarely holds ties, but a model that knows nothing makes many: shared, they leave it at chance, where
a strict comparison would call it unbiased or a bad model of language.
"""

from typing import Sequence


def shares(scores: Sequence[float]) -> list[float]:
    """Of each score its share of being the greatest: 1, or 1/k for k that are; they sum to 1."""
    greatest = max(scores)
    ngreatest = list(scores).count(greatest)
    return [1 / ngreatest if score == greatest else 0.0 for score in scores]


def beats(score: float, other: float) -> float:
    """1 if ``score`` is the greater, 1/2 if they are equal, else 0."""
    return shares([score, other])[0]
