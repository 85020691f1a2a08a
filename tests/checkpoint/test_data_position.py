"""Positions that count batches are taken where the batches are the same, and refused elsewhere."""

from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

from metaseq_plugin.checkpoint.data_position import (
    check_making,
    check_place,
    has_update_left,
    scaled_position,
)
from metaseq_plugin.compat.errors import UserError

INSIDE = {"epoch": 3, "iterations_in_epoch": 7}
MAKING: Dict[str, Dict[str, Any]] = {
    "dataset": {
        "max_tokens": None, "batch_size": 4, "required_batch_size_multiple": 8,
        "grouped_shuffling": False,
    },
    "common": {"seed": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "now", "position", "repeated"),
    [(1, 1, 7, 0), (4, 2, 14, 0), (2, 4, 3, 2), (1, 8, 0, 7)],
)
def test_batches_are_counted_over_all_ranks(
    saved: int, now: int, position: int, repeated: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = scaled_position(INSIDE, saved, now)
    assert found == {"epoch": 3, "iterations_in_epoch": position}
    told = [f"{repeated} of them will be seen twice" in message for message in caplog.messages]
    assert told == ([True] if repeated else [])


@pytest.mark.parametrize("key", ["streaming", "blocks"])
def test_positions_of_samples_are_for_any_ranks_and_batches(key: str) -> None:
    iterator = {**INSIDE, key: {}}
    assert scaled_position(iterator, 2, 4) == iterator
    check_making(iterator, {"dataset": {"batch_size": 2}}, MAKING)
    check_place(iterator, 5)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("dataset", "batch_size", 8),
        ("dataset", "max_tokens", 64),
        ("dataset", "grouped_shuffling", True),
        ("common", "seed", 2),
    ],
)
def test_other_batches_are_refused_inside_an_epoch(group: str, name: str, value: Any) -> None:
    other = {**MAKING, group: {**MAKING[group], name: value}}
    option = name.replace("_", "-")
    with pytest.raises(UserError, match=f"`--{option}` must stay {MAKING[group][name]} until"):
        check_making(INSIDE, MAKING, other)
    check_making(INSIDE, MAKING, MAKING)
    check_making(INSIDE, {}, other)  # nobody knows
    check_making({**INSIDE, "iterations_in_epoch": 0}, MAKING, other)


@pytest.mark.parametrize(("batches", "fits"), [(8, True), (7, False)])
def test_a_place_behind_the_epoch_is_refused(batches: int, fits: bool) -> None:
    if fits:
        check_place(INSIDE, batches)
        return
    with pytest.raises(UserError, match="behind 7 batches of a rank and an epoch has 7"):
        check_place(INSIDE, batches)


class Epoch:
    """An epoch iterator after ``gone`` of 10 batches."""

    def __init__(self, epoch: int, gone: int) -> None:
        self.epoch, self.iterations_in_epoch = epoch, gone

    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize(
    ("epoch", "gone", "update_freq", "skips", "expected"),
    [
        (1, 9, [4], False, True),
        (1, 10, [4], False, False),
        (1, 8, [2], True, False),  # one is left out
        (1, 7, [2], True, True),
        (2, 8, [2, 1], True, True),
        (5, 8, [2, 1], True, True),
        (1, 8, [2, 1], True, False),
    ],
)
def test_whether_an_update_is_left(
    epoch: int, gone: int, update_freq: List[int], skips: bool, expected: bool
) -> None:
    optimization = SimpleNamespace(update_freq=update_freq, skip_remainder_batch=skips)
    assert has_update_left(Epoch(epoch, gone), optimization) is expected
