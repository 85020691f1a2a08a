"""AUC, precision, recall and F1, computed by hand and by counting pairs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.agreement import agreement, area_under_curve


def test_by_hand() -> None:
    # pairs (positive, other): .9>.6 .9>.5 .9>.1, .5<.6 .5=.5 .5>.1, .2<.6 .2<.5 .2>.1: 3 + 1.5 + 1 of 9
    figures = [0.9, 0.5, 0.2, 0.6, 0.5, 0.1]
    labels = [True, True, True, False, False, False]
    found = agreement(figures, labels, threshold=0.5)
    assert found.auc == pytest.approx(5.5 / 9)
    # flagged: .9 .5 | .6 .5
    assert (found.precision, found.recall, found.f1) == (2 / 4, 2 / 3, 4 / 7)
    assert (found.n, found.npositive) == (6, 3)


def test_figures_that_are_all_equal_say_nothing() -> None:
    found = agreement([0.0] * 4, [True, False, False, False], threshold=0.5)
    assert found.auc == 0.5
    assert math.isnan(found.precision)
    assert (found.recall, found.f1) == (0, 0)


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_are_refused(label: bool) -> None:
    with pytest.raises(UserError, match="Labels must be of both kinds, but"):
        agreement([0.1, 0.2], [label, label], threshold=0.5)


@given(
    st.lists(
        st.tuples(st.integers(0, 4).map(lambda n: n / 4), st.booleans()), min_size=2, max_size=30
    ).filter(lambda pairs: len({label for _, label in pairs}) == 2)
)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[float, bool]]) -> None:
    ours = [figure for figure, label in pairs if label]
    others = [figure for figure, label in pairs if not label]
    counted = sum((a > b) + 0.5 * (a == b) for a in ours for b in others)
    found = area_under_curve([figure for figure, _ in pairs], [label for _, label in pairs])
    assert found == pytest.approx(counted / (len(ours) * len(others)))
