"""Rows that anybody may have written."""

from typing import Any

import pytest

from metaseq_plugin.ledger.sound import sound, sound_tally
from metaseq_plugin.ledger.tally import Tally

ROW = {"time": 5.0, "kind": "save", "update": 3, "start": 0}


@pytest.mark.parametrize("when", [-1, 1e12, 10**400])
def test_a_row_without_a_time_of_day_is_none(when: Any) -> None:
    assert sound({**ROW, "time": when}) is None
    assert sound(None) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seconds": float("nan"), "bytes": 10**400}, {"seconds": None, "bytes": None}),
        ({"update": -1, "start": "x"}, {"update": None, "start": None}),
        ({"update": 3.5, "start": [0]}, {"update": None, "start": None}),
        ({"from": "checkpoint_last.pt", "to": -7}, {"from": "checkpoint_last.pt", "to": None}),
        ({"a": {"b": [1e300, "x", None, True]}}, {"a": {"b": [None, "x", None, True]}}),
        ({"loss": 2.5, "ok": False}, {"loss": 2.5, "ok": False}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_nothing(fields: Any, expected: Any) -> None:
    assert sound({**ROW, **fields}) == {**ROW, **expected}


def test_what_is_nested_without_end_is_cut() -> None:
    value: Any = 1
    for _ in range(500):
        value = [value]
    assert "1" not in repr(sound({**ROW, "start": 0, "update": 3, "a": value, "time": 5.0})["a"])  # type: ignore[index]


def test_a_tally_that_nobody_counted_is_none() -> None:
    whole = Tally(0, 0, 17, 17, began=1e9, seen=2e9)
    assert sound_tally(whole) is whole
    assert sound_tally(None) is None
    for change in ({"update": -1}, {"start": 2**60}, {"seen": float("nan")}, {"began": 1e300}):
        assert sound_tally(whole._replace(**change)) is None
