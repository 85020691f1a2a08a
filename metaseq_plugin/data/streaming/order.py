"""The order of an epoch's documents: number → (corpus, document), in any place at once.

An epoch draws ``num_drawn[c]`` documents from corpus c, which has ``num_documents[c]``. Each corpus
is gone through pass after pass, every pass in a new random order, and an epoch goes on where the last
one stopped: a corpus of which an epoch takes a tenth is seen once in ten epochs, and one of which it
takes 2.5 is seen two or three times. What an epoch draws is shuffled as a whole.

Random permutations of 0 … n-1 are computed where they are asked for, and stored nowhere. A Feistel network
permutes the numbers of 2h bits: a number is cut into halves, and round after round one half is XORed with a
hash of the other, which can be undone whatever the hash is. Where 2^2h is more than n, a result outside
0 … n-1 is permuted again until it falls inside ("cycle walking"); that is a permutation of 0 … n-1, and as
random as the larger one.
"""

from functools import lru_cache
from hashlib import blake2b

import numpy as np

EPOCH_KEY, PASS_KEY = 1, 2  # keep the two kinds of permutation apart
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


class DocumentOrder:
    """M = sum of ``num_drawn`` documents, numbered 0 … M-1.

    Args:
        num_documents: (C,) int64, of each corpus.
        num_drawn: (C,) int64, in an epoch.
        epoch: from 1.
        shuffles: otherwise corpus after corpus, document after document.
    """

    def __init__(
        self,
        num_documents: np.ndarray,
        num_drawn: np.ndarray,
        seed: int,
        epoch: int,
        shuffles: bool,
    ) -> None:
        self.num_documents, self.num_drawn = num_documents, num_drawn
        self.seed, self.epoch, self.shuffles = seed, epoch, shuffles
        self.ends = np.cumsum(num_drawn)  # of each corpus's numbers before the shuffle

    def __len__(self) -> int:
        return int(self.ends[-1])

    def lookup(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Corpus and document of numbers [first, last), each (last - first,) int64."""
        numbers = np.arange(first, last, dtype=np.int64)
        if self.shuffles:
            keys = round_keys(self.seed, EPOCH_KEY, self.epoch)
            numbers = permuted(numbers, len(self), keys, np.zeros_like(numbers))
        corpora = np.searchsorted(self.ends, numbers, side="right")
        drawn_before = (self.epoch - 1) * self.num_drawn[corpora]
        drawn = drawn_before + numbers - (self.ends - self.num_drawn)[corpora]
        passes, documents = np.divmod(drawn, self.num_documents[corpora])
        if self.shuffles:
            for corpus in np.unique(corpora):
                here = np.flatnonzero(corpora == corpus)
                documents[here] = permuted(
                    documents[here],
                    int(self.num_documents[corpus]),
                    round_keys(self.seed, PASS_KEY, int(corpus)),
                    passes[here],
                )
        return corpora, documents
