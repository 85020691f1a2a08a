"""Which documents are copies of an earlier one, exactly or nearly.

Near copies are found by MinHash and locality-sensitive hashing (Broder 1997, "On the resemblance and
containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3):
(1) ``shingles``: a text is the set of its runs of SHINGLE_WORDS words, without regard to case;
(2) ``signature``: NUM_PERMUTATIONS minima of permuted hashes of the set, in the worker processes. Two
    signatures agree at a share of places that estimates the Jaccard similarity J of the sets, |A ∩ B| /
    |A ∪ B|, with a standard deviation of √(J (1 - J) / NUM_PERMUTATIONS);
(3) ``StayingDocuments.near_copy_of``: candidates come from an index of bands of the signature, and those
    whose signature agrees well enough are copies.

Documents are asked about in the order of the corpus and only those that stay are indexed, so the
answer does not depend on the number of workers. The index is in memory: about 6,000
bytes a document that stays.
"""

from hashlib import blake2b
from itertools import islice
from typing import Iterator, Optional
from zlib import crc32

import numpy as np
from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
BATCH = 4_096  # shingles hashed at once: memory is BATCH × NUM_PERMUTATIONS numbers
DIGEST_BYTES = 16
SCHEME = "affine32"
# Candidates are checked, so missing a copy costs more than a candidate too many.
WEIGHTS = (0.1, 0.9)  # of a false positive and a false negative

_EMPTY = MinHash(NUM_PERMUTATIONS, hashfunc=crc32, scheme=SCHEME)


def digest(text: str) -> bytes:
    """What equal texts share, and no others."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def shingles(text: str) -> Iterator[bytes]:
    """The runs of SHINGLE_WORDS words of ``text``; all of it where it has fewer."""
    words = text.lower().split()
    last = max(len(words) - SHINGLE_WORDS, 0)
    return (" ".join(words[n : n + SHINGLE_WORDS]).encode() for n in range(last + 1))


def signature(text: str) -> np.ndarray:
    """(NUM_PERMUTATIONS,) uint32."""
    minima = _EMPTY.copy()
    runs = shingles(text)
    while batch := list(islice(runs, BATCH)):
        minima.update_batch(batch)
    return minima.hashvalues


class StayingDocuments:
    """The documents that stay, numbered from 0.

    Args:
        threshold: Jaccard similarity from which on a document is a near copy; 1 for exact copies only.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._exact: dict[bytes, int] = {}
        # Grows by doubling.
        self._minima: np.ndarray = np.empty((1_024, NUM_PERMUTATIONS), np.uint32)
        self._index = MinHashLSH(threshold, NUM_PERMUTATIONS, WEIGHTS) if threshold < 1 else None

    def exact_copy_of(self, digest: bytes) -> Optional[int]:
        """The number of the document with this text."""
        return self._exact.get(digest)

    def near_copy_of(self, minima: np.ndarray) -> Optional[int]:
        """The number of the first document at least as similar as the threshold asks for."""
        if self._index is None:
            return None
        candidates = np.array(sorted(self._index.query(_as_minhash(minima))), dtype=np.int64)
        similarity = np.mean(self._minima[candidates] == minima, axis=1)
        copies = candidates[similarity >= self.threshold]
        return int(copies[0]) if len(copies) else None

    def add(self, digest: bytes, minima: Optional[np.ndarray]) -> None:
        """Take the next document among those that stay."""
        number = len(self._exact)
        self._exact[digest] = number
        if self._index is not None and minima is not None:
            if number == len(self._minima):
                self._minima = np.concatenate([self._minima, np.empty_like(self._minima)])
            self._minima[number] = minima
            self._index.insert(number, _as_minhash(minima), check_duplication=False)


def _as_minhash(minima: np.ndarray) -> MinHash:
    permutations = _EMPTY.permutations  # shared: they are 1 KB
    return MinHash(hashvalues=minima, permutations=permutations, scheme=SCHEME)
