"""Which batches go by unused: those a user names, and those a run went back over."""

from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.data.skips import Skips, Window, past_windows


def made(skips: Dict[int, int], updates: int) -> List[int]:
    """Which batch each update from 1 has, the batches being numbered from 1."""
    state, batch, result = Skips(skips), 0, []
    for update in range(1, updates + 1):
        while state.left(update) > 0:
            state.done += 1
            batch += 1
        batch += 1
        result.append(batch)
    return result


@pytest.mark.parametrize(
    ("windows", "past"),
    [
        ([], {5: 2}),
        ([(10, 12)], {5: 2, 10: 3}),
        ([(3, 6)], {3: 6}),  # the two of update 5 lie within
        ([(5, 5)], {5: 3}),
        ([(2, 4)], {2: 5}),  # update 5 is right behind: its two come next
        ([(10, 12), (9, 9)], {5: 2, 9: 4}),
        ([(10, 12), (10, 10)], {5: 2, 10: 4}),
        (
            [(20, 22), (7, 8)],
            {5: 2, 7: 2, 18: 3},
        ),  # the data of the first window comes two updates earlier
    ],
)
def test_windows_add_to_what_is_skipped(windows: List[Window], past: Dict[int, int]) -> None:
    assert past_windows({5: 2}, windows) == past


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=5))
def test_each_window_leaves_out_what_its_updates_had(drawn: List["tuple[int, int]"]) -> None:
    """One after the other: the batches of its updates, and those that were skipped among them, are never used again."""
    windows: List[Window] = []
    for first, more in drawn:
        before = made(past_windows({}, windows), 80)
        windows.append((first, first + more))
        after = made(past_windows({}, windows), 60)
        assert after == before[: first - 1] + before[first + more : first + more + 60 - first + 1]
