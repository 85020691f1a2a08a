"""Curves of many lines keep their ends, their sums and their spikes, and stay short."""

import math
from typing import Any, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.ledger.account import Point
from metaseq_plugin.ledger.curves import Curve


def line(update: int, loss: Any = 2.0, updates: int = 10, **fields: Any) -> "dict[str, Any]":
    return {
        "time": 1000.0 + update, "update": update, "start": 0, "updates": updates, "ntokens": 100,
        "seconds": 4.0, "loss": loss, **fields,
    }  # fmt: skip


def thinned(losses: List[Any], most: int) -> List[Point]:
    curve = Curve(most)
    for place, loss in enumerate(losses):
        curve.add(line(10 * (place + 1), loss), 0, True)
    return curve.points()


@given(st.lists(st.floats(0, 20), min_size=1, max_size=300), st.integers(1, 40))
def test_nothing_is_left_out(losses: List[float], most: int) -> None:
    points = thinned(losses, most)
    assert len(points) <= max(1, most)
    assert points[-1].update == 10 * len(losses)
    assert sum(point.updates for point in points) == 10 * len(losses)
    assert points[-1].tokens == 100 * len(losses)
    mean = math.fsum(point.loss * point.updates for point in points) / (10 * len(losses))  # type: ignore[operator]
    assert mean == pytest.approx(sum(losses) / len(losses))
    assert min(point.loss_low for point in points) == min(losses)  # type: ignore[type-var]
    assert max(point.loss_high for point in points) == max(losses)  # type: ignore[type-var]


def test_a_spike_of_one_line_among_a_thousand_is_seen() -> None:
    points = thinned([2.0] * 500 + [900.0] + [2.0] * 500, most=20)
    assert len(points) <= 20
    assert [point.loss_high for point in points].count(900.0) == 1


@pytest.mark.parametrize("most", [100, 3])
def test_tokens_of_a_run_that_went_back_are_those_of_its_way(most: int) -> None:
    """100 tokens every 10 updates to 100, back to 40, 200 tokens to 60, back to 45, 100 to 65."""
    curve = Curve(most)
    stretches = ((range(10, 101, 10), 100), (range(50, 61, 10), 200), (range(55, 66, 10), 100))
    for stretch, (updates, tokens) in enumerate(stretches):
        for update in updates:
            curve.add(line(update, ntokens=tokens), stretch, stretch == 2)
    points = {(point.update, point.is_kept): point.tokens for point in curve.points()}
    assert points[100, False] == 1000
    assert points[60, False] == 400 + 400
    assert points[65, True] == 400 + 100 + 200  # of the second way's first ten updates, a half


def test_few_lines_are_kept_as_they_are() -> None:
    points = thinned([3.0, None, 1.0], most=10)
    assert [(point.update, point.loss) for point in points] == [(10, 3.0), (20, None), (30, 1.0)]
    assert points[0].tokens_per_second == 25


def test_what_was_lost_is_not_mixed_with_what_was_kept() -> None:
    curve = Curve(most=2)
    for place in range(64):
        curve.add(line(10 * place + 10, 1.0 if place < 40 else 9.0), 0, place < 40)
    assert {(point.is_kept, point.loss) for point in curve.points()} == {(True, 1.0), (False, 9.0)}


def test_means_weigh_and_the_last_value_stands() -> None:
    curve = Curve(most=1)
    curve.add(line(10, 4.0, lr=1e-3, mfu=0.5, norms={"a": 1}), 0, True)
    curve.add(line(20, 1.0, lr=5e-4, mfu=0.2) | {"ntokens": 300, "seconds": 8.0}, 0, True)
    (point,) = curve.points()
    assert (point.loss, point.lr, point.norms) == (1.75, 5e-4, {"a": 1})
    assert point.mfu == pytest.approx(0.3)
    assert point.tokens_per_second == pytest.approx(400 / 12)


def test_more_stretches_than_points_keep_one_each() -> None:
    curve = Curve(most=4)
    for place in range(50):
        curve.add(line(10 * place + 10), place, True)
    assert len(curve.points()) == 50
