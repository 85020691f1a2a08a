"""Random permutations of 0 … n-1 that are computed where they are asked for, and stored nowhere.

A Feistel network permutes the numbers of 2h bits: a number is cut into halves, and round after round
one half is XORed with a hash of the other, which can be undone whatever the hash is. Where 2^2h is
more than n, a result outside 0 … n-1 is permuted again until it falls inside ("cycle walking"); that
is a permutation of 0 … n-1, and as random as the larger one.
"""

from functools import lru_cache
from hashlib import blake2b

import numpy as np

ROUNDS = 6
# A small network is a poor shuffler: it is large enough for 256 numbers, and walks to the fewer.
MIN_HALF_BITS = 4


@lru_cache(maxsize=1024)
def round_keys(*parts: int) -> tuple[int, ...]:
    """ROUNDS 64-bit keys that depend on every one of ``parts``."""
    digest = blake2b(",".join(map(str, parts)).encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def mixed(x: np.ndarray) -> np.ndarray:
    """A hash of each 64-bit number: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(
    numbers: np.ndarray, size: int, keys: tuple[int, ...], tweaks: np.ndarray
) -> np.ndarray:
    """Where a permutation of 0 … ``size``-1 sends each of ``numbers``.

    Args:
        numbers: (n,) int64, each below ``size``.
        keys: ``round_keys``.
        tweaks: (n,) int64; each value is a permutation of its own.
    """
    half = max(MIN_HALF_BITS, (max(size - 1, 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    salts = mixed(tweaks.astype(np.uint64) + np.uint64(1))

    def once(x: np.ndarray, salt: np.ndarray) -> np.ndarray:
        left, right = x >> shift, x & mask
        for key in keys:
            left, right = right, left ^ (mixed(right ^ salt ^ np.uint64(key)) & mask)
        return (left << shift) | right

    result = once(numbers.astype(np.uint64), salts)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = once(result[outside], salts[outside])
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)
