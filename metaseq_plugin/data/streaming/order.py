"""The order of an epoch's documents: number → (corpus, document), in any place at once.

An epoch draws ``num_drawn[c]`` documents from corpus c, which has ``num_documents[c]``. Each corpus
is gone through pass after pass, every pass in a new random order, and an epoch goes on where the last
one stopped: a corpus of which an epoch takes a tenth is seen once in ten epochs, and one of which it
takes 2.5 is seen two or three times. What an epoch draws is shuffled as a whole.
"""

import numpy as np

from metaseq_plugin.data.streaming.permutation import permuted, round_keys

EPOCH_KEY, PASS_KEY = 1, 2  # keep the two kinds of permutation apart


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
