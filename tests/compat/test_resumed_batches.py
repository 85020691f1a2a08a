"""fairseq's own iterators: what is left of a resumed epoch is what was left when it stopped."""

import itertools
from typing import Any, List, Tuple

import pytest
import torch
from fairseq.data.iterators import CountingIterator, EpochBatchIterator, GroupedIterator


class Numbers(torch.utils.data.Dataset):
    """The numbers from 0."""

    def __getitem__(self, index: int) -> int:
        return index


def epochs(batches: int, **options: Any) -> EpochBatchIterator:
    return EpochBatchIterator(Numbers(), list, [[n] for n in range(batches)], **options)


@pytest.mark.parametrize(
    ("update_freq", "buffer_size", "reuse"),
    itertools.product([1, 2, 4], [0, 3], [False, True]),
)
def test_without_its_remainder(update_freq: int, buffer_size: int, reuse: bool) -> None:
    options = {
        "skip_remainder_batch": True, "buffer_size": buffer_size, "reuse_dataloader": reuse,
    }  # fmt: skip
    whole = epochs(15, **options)
    updates, states = [], []
    for _ in range(2):
        group = GroupedIterator(whole.next_epoch_itr(), update_freq, True)
        assert len(group) == 14 // update_freq
        for update in group:
            updates.append(update)
            states.append(whole.state_dict())
    assert len(updates) == 2 * (14 // update_freq)
    for done, state in enumerate(states, 1):
        resumed = epochs(15, **options)
        resumed.load_state_dict(state)
        rest: List[Any] = []
        while resumed.next_epoch_idx <= 2:
            rest.extend(GroupedIterator(resumed.next_epoch_itr(), update_freq, True))
        assert rest == updates[done:], done


@pytest.mark.parametrize(
    ("gone", "length", "chunk", "skips", "expected"),
    [
        (3, 16, 4, False, [4, 4, 4, 1]),  # fairseq: 3 groups
        (6, 15, 4, False, [4, 4, 1]),  # fairseq: 2
        (3, 15, 4, True, [4, 4, 4]),  # fairseq: 2
        (3, 16, 4, True, [4, 4, 4]),
        (0, 7, 3, False, [3, 3, 1]),
        (0, 7, 3, True, [3, 3]),
        (6, 7, 3, False, [1]),
    ],
)
def test_groups_of_what_is_left(
    gone: int, length: int, chunk: int, skips: bool, expected: List[int]
) -> None:
    batches = CountingIterator(range(gone, length), start=gone)
    group = GroupedIterator(batches, chunk, skips)
    assert len(group) - group.n == len(expected)
    assert [len(batches) for batches in group] == expected
    assert not batches.has_next()


@pytest.mark.parametrize("shuffles", [(False, True), (True, False)])
def test_a_kept_loader_shuffles_as_it_is_asked(shuffles: Tuple[bool, bool]) -> None:
    kept = epochs(15, reuse_dataloader=True)
    for epoch, shuffle in enumerate(shuffles, 1):
        fresh = epochs(15, epoch=epoch)
        assert list(kept.next_epoch_itr(shuffle)) == list(fresh.next_epoch_itr(shuffle))
