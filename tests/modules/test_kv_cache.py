"""Sequences of two caches in one: shorter ones padded on the left, common padding dropped."""

import torch

from metaseq_plugin.modules.kv_cache import KVCache


def filled(num_rows: int, length: int, capacity: int, start: float) -> KVCache:
    """A cache of one layer whose numbers count up from ``start``; the first row's first is padding."""
    cache = KVCache(1, capacity, has_pad=True)
    is_pad = torch.zeros(num_rows, length, dtype=torch.bool)
    is_pad[0, 0] = True
    cache.observe(is_pad)
    held = start + torch.arange(float(num_rows * length)).view(num_rows, 1, length, 1)
    cache.append(0, held, -held)
    cache.advance(length)
    return cache


def test_join_pads_the_shorter_on_the_left() -> None:
    cache = filled(1, 4, 4, 1)
    cache.join(filled(2, 2, 9, 11), drop=1, capacity=6)
    assert (cache.length, cache.capacity, cache.has_pad) == (3, 6, True)
    assert cache.keys[0][:, 0, :3, 0].tolist() == [[2, 3, 4], [0, 11, 12], [0, 13, 14]]
    assert cache.values[0][:, 0, :3, 0].tolist() == [[-2, -3, -4], [0, -11, -12], [0, -13, -14]]
    assert cache.is_pad[:, :3].tolist() == [[False] * 3, [True, True, False], [True, False, False]]
    assert cache.keys[0].shape == (3, 1, 6, 1)


def test_join_of_longer_sequences() -> None:
    cache = filled(1, 2, 2, 1)
    cache.join(filled(1, 3, 3, 11), drop=0, capacity=4)
    assert cache.keys[0][:, 0, :3, 0].tolist() == [[0, 1, 2], [11, 12, 13]]
    assert cache.is_pad[:, :3].tolist() == [[True, True, False], [True, False, False]]


def test_join_sees_padding_only_where_lengths_differ() -> None:
    for length, expected in ((3, False), (2, True)):
        caches = []
        for size in (3, length):
            cache = KVCache(1, size, has_pad=False)
            cache.observe(torch.zeros(1, size, dtype=torch.bool))
            cache.append(0, torch.zeros(1, 1, size, 1), torch.zeros(1, 1, size, 1))
            cache.advance(size)
            caches.append(cache)
        caches[0].join(caches[1], drop=0, capacity=5)
        assert caches[0].has_pad is expected
