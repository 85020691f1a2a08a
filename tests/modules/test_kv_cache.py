"""Slots of a cache: who lies where, what it takes, and that no more is held than is said."""

import random
from typing import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.modules.kv_cache import Bucket, KVCache, Stretch, bytes_per_token, room_for

HEADS, HEAD_DIM, LAYERS, LONGEST = 2, 3, 2, 1000


def fill(cache: KVCache, rows: Sequence[int], length: int, numbers: Sequence[int]) -> None:
    """Let ``rows`` hold ``length`` columns of their number and, as values, its negative."""
    for row, number in zip(rows, numbers, strict=True):
        bucket, slot = cache.locate(row)
        for layer in range(LAYERS):
            keys, values = bucket.memory(layer, torch.empty(1, HEADS, 1, HEAD_DIM))
            keys[slot, :, :length], values[slot, :, :length] = number, -number
        bucket.lengths[slot] = bucket.clean[slot] = length


def held(cache: KVCache) -> list[int]:
    """The number of every row, checked to fill its columns."""
    found = []
    for bucket in cache.buckets:
        for slot, length in enumerate(bucket.lengths):
            number = int(bucket.keys[0][slot, 0, 0, 0])
            for keys, values in zip(bucket.keys, bucket.values):
                assert (keys[slot, :, :length] == number).all()
                assert (values[slot, :, :length] == -number).all()
            found.append(number)
    return found


def elements(cache: KVCache) -> int:
    return sum(t.numel() for bucket in cache.buckets for t in (*bucket.keys, *bucket.values))


def test_rooms_are_powers_of_two_up_to_what_the_model_reads() -> None:
    counts = (1, 64, 65, 128, 129, 700, 1000, 1001)
    assert [room_for(count, 1000) for count in counts] == [64, 64, 128, 128, 256, 1000, 1000, 1000]
    assert room_for(5, 40) == 40


def test_bytes_of_a_token_are_a_key_and_a_value_in_every_layer() -> None:
    assert bytes_per_token(12, 768, torch.float32) == 72 * 1024  # the 125M
    assert bytes_per_token(96, 12_288, torch.bfloat16) == 4608 * 1024  # the 175B


def test_rows_stand_by_room_and_newcomers_behind_the_others() -> None:
    cache = KVCache(LAYERS, LONGEST)
    assert cache.admit([200, 10, 130]) == [1, 0, 2]
    fill(cache, [0, 1, 2], 5, [10, 11, 12])
    assert cache.admit([100, 10, 250]) == [0, 4, 3, 1, 2, 5]
    fill(cache, [1, 2, 5], 3, [14, 13, 15])
    assert held(cache) == [10, 14, 13, 11, 12, 15]
    assert [bucket.room for bucket in cache.buckets] == [64, 128, 256]


def test_the_last_row_takes_the_slot_of_one_that_leaves() -> None:
    cache = KVCache(LAYERS, LONGEST)
    cache.admit([10, 10, 10, 10, 10, 100, 100])
    fill(cache, range(7), 4, [1, 2, 3, 4, 5, 6, 7])
    assert cache.keep([0, 2, 4, 6]) == [0, 4, 2, 6]
    assert held(cache) == [1, 5, 3, 7]
    assert cache.keep([3]) == [3]
    assert held(cache) == [7]
    assert cache.keep([]) == []
    assert (cache.buckets, cache.num_tokens) == ([], 0)


def test_repeated_rows_hold_what_the_first_does() -> None:
    cache = KVCache(LAYERS, LONGEST)
    cache.admit([10, 10, 10, 10])
    fill(cache, [0, 1], 6, [1, 2])
    cache.repeat(1, 2)
    assert held(cache) == [1, 2, 2, 2]
    assert cache.buckets[0].lengths == cache.buckets[0].clean == [6] * 4


def test_select_moves_only_what_follows_the_shared_part() -> None:
    cache = KVCache(LAYERS, LONGEST)
    cache.admit([10, 10, 10])
    fill(cache, [0, 1, 2], 4, [1, 2, 3])
    cache.select([1, 0, 0], start=3)
    assert cache.buckets[0].keys[1][:, 0, :4, 0].tolist() == [
        [1, 1, 1, 2], [2, 2, 2, 1], [3, 3, 3, 1],
    ]  # fmt: skip
    cache.select([2, 2], start=0)
    assert cache.buckets[0].values[0][:2, 0, :4, 0].tolist() == [[-3, -3, -3, -1]] * 2
    assert cache.num_rows == 2


def test_what_is_not_clean_is_told_by_stretches() -> None:
    bucket = Bucket(64, LAYERS)
    bucket.lengths, bucket.clean = [3, 3, 9, 20], [16, 16, 9, 40]
    assert bucket.dirty(16) == [Stretch(slice(2, 3), slice(9, 16))]
    assert bucket.dirty(32) == [
        Stretch(slice(0, 2), slice(16, 32)), Stretch(slice(2, 3), slice(9, 32)),
    ]  # fmt: skip


def test_a_bucket_grows_in_steps_where_it_may() -> None:
    for max_tokens, expected in ((None, [1, 2, 4, 4, 8]), (5 * 64, [1, 2, 4, 4, 5])):
        cache, slots = KVCache(LAYERS, LONGEST, max_tokens), []
        for number in range(5):
            cache.admit([10])
            fill(cache, [number], 4, [number])
            slots.append(cache.buckets[0].num_slots)
        assert slots == expected
        assert held(cache) == [0, 1, 2, 3, 4]


def test_spare_slots_make_way_for_rows_of_another_room() -> None:
    cache = KVCache(LAYERS, LONGEST, max_tokens=512)
    for number in range(5):
        cache.admit([10])
        fill(cache, [number], 4, [number])
    assert cache.num_tokens == 8 * 64
    cache.admit([100])
    fill(cache, [5], 4, [5])
    assert cache.num_tokens == 5 * 64 + 128
    assert held(cache) == [0, 1, 2, 3, 4, 5]
    assert elements(cache) == cache.num_tokens * 2 * LAYERS * HEADS * HEAD_DIM


def test_rows_that_join_together_keep_their_slots_where_each_room_needs_the_last_ones() -> None:
    cache = KVCache(LAYERS, LONGEST, max_tokens=4 * 64 + 2 * 128)
    cache.admit([10, 10, 10])
    fill(cache, [0, 1, 2], 4, [0, 1, 2])
    assert cache.admit([10, 100, 100]) == [0, 1, 2, 3, 4, 5]
    fill(cache, [3, 4, 5], 4, [3, 4, 5])
    assert held(cache) == [0, 1, 2, 3, 4, 5]
    assert [bucket.num_slots for bucket in cache.buckets] == [4, 2]


@given(seed=st.integers(0, 10**6), max_tokens=st.sampled_from([1000, 2048, 5000]))
@settings(deadline=None, max_examples=40)
def test_no_more_is_held_than_is_said_while_rows_cost_no_more(seed: int, max_tokens: int) -> None:
    """Rows of any size come and go, as many as ``max_tokens`` has room for; each keeps what it holds."""
    chance = random.Random(seed)
    cache = KVCache(LAYERS, LONGEST, max_tokens)
    numbers: list[int] = []
    rooms: dict[int, int] = {}
    for _ in range(40):
        counts: dict[int, int] = {}  # of those that join together
        for _ in range(chance.randint(1, 3)):
            count = chance.randint(1, LONGEST)
            room = room_for(count, LONGEST)
            if sum(rooms[n] for n in [*numbers, *counts]) + room <= max_tokens:
                rooms[len(rooms)] = room
                counts[len(rooms) - 1] = count
        if counts:
            numbers += counts
            order = cache.admit([*counts.values()])
            numbers = [numbers[row] for row in order]
            for number, count in counts.items():
                fill(cache, [numbers.index(number)], chance.randint(1, count), [number])
        if chance.random() < 0.5:
            kept = [row for row in range(len(numbers)) if chance.random() < 0.7]
            numbers = [numbers[row] for row in cache.keep(kept)]
        assert held(cache) == numbers
        assert cache.num_tokens <= max_tokens
        assert elements(cache) == cache.num_tokens * 2 * LAYERS * HEADS * HEAD_DIM


def test_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match="no such row"):
        KVCache(LAYERS, LONGEST).locate(0)
