"""How well figures agree with labels.

Legend: N texts, of which P are positive.
"""

from typing import NamedTuple, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.statistics import mann_whitney


class Agreement(NamedTuple):
    """Of a scorer with labels.

    Attributes:
        n, npositive: texts, and those that are labelled toxic.
        auc: the chance that a positive text has a higher figure than another one; half of it where they are equal.
        precision: share of the flagged texts that are positive; nan where none is flagged.
        recall: share of the positive texts that are flagged.
        f1: 2 TP / (2 TP + FP + FN).
    """

    n: int
    npositive: int
    auc: float
    precision: float
    recall: float
    f1: float


def agreement(
    figures: Sequence[float], are_positive: Sequence[bool], threshold: float
) -> Agreement:
    """Of N figures, flagged from ``threshold`` on, with N labels.

    Raises:
        UserError: all labels are the same.
    """
    npositive = sum(are_positive)
    if not 0 < npositive < len(are_positive):
        raise UserError(
            f"Labels must be of both kinds, but {npositive} of {len(are_positive)} texts are labelled toxic. "
            "Set other data."
        )
    flags = [figure >= threshold for figure in figures]
    true = sum(flag and label for flag, label in zip(flags, are_positive))
    return Agreement(
        len(figures),
        npositive,
        area_under_curve(figures, are_positive),
        true / sum(flags) if any(flags) else float("nan"),
        true / npositive,
        2 * true / (sum(flags) + npositive),
    )


def area_under_curve(figures: Sequence[float], are_positive: Sequence[bool]) -> float:
    """U / (P (N - P)) of Mann and Whitney (1947); equal figures count half."""
    positive, other = (
        [figure for figure, label in zip(figures, are_positive) if label == wanted]
        for wanted in (True, False)
    )
    return mann_whitney(positive, other)[0] / (len(positive) * len(other))
