"""Documents' tokens to blocks of at most T tokens.

The tokens of the documents, each closed by ``</s>``, form one stream, and a block is a range of it. These
are the blocks of ``binarized/token_blocks.py``, which says what ``none``, ``complete`` and ``eos`` mean, found
without knowing what comes.
"""

from typing import Iterable, Iterator, NamedTuple, Optional, TypedDict

import numpy as np

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.streaming.tokens import Range, Tokenised
from metaseq_plugin.tokenizers.base import EOS


class Position(TypedDict):
    """Where a block begins in its epoch: all that is needed to go on from there."""

    document: int  # number in the order
    token: int  # of that document; those before went by
    block: int  # number of the block


START: Position = {"document": 0, "token": 0, "block": 0}
# The columns of a tally, which has a row a corpus.
TALLY = ("documents", "tokens", "empty", "bad")
DOCUMENTS, TOKENS, EMPTY, BAD = range(len(TALLY))


class Block(NamedTuple):
    """One block. Its tally counts the documents that end in it, and the tokens that are in it."""

    number: int
    tokens: np.ndarray  # (1 + size,): what comes before, and the range
    tally: np.ndarray  # (C, 4) int64
    next: Position  # where the next block begins


class Packer:
    """Cuts what is added into blocks, and holds what is not yet one.

    Args:
        position: where to begin; the first document added must be its ``document``.
    """

    def __init__(
        self, block_size: int, break_mode: SampleBreakMode, num_corpora: int, position: Position
    ) -> None:
        self.block_size, self.break_mode, self.num_corpora = block_size, break_mode, num_corpora
        self.block, self.first_document = position["block"], position["document"]
        self.went_by = position["token"]  # of the first document that will be added
        # The D documents at hand: their sizes, and where they end in the stream from here on.
        self.sizes, self.ends, self.corpora = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self.is_bad = np.zeros(0, dtype=bool)
        self.tokens = np.array([EOS])  # what comes before the stream at hand, and that stream
        self.at, self.done = 0, 0  # tokens that are blocks already; documents that ended in them

    def add(self, corpora: np.ndarray, tokenised: Tokenised) -> None:
        """Append documents; let go of those that have ended."""
        at, done = self.at, self.done
        total = int(self.ends[-1]) if len(self.ends) else 0
        new_ends = total - self.went_by + np.cumsum(tokenised.sizes)
        self.ends = np.concatenate([self.ends[done:], new_ends]) - at
        self.sizes = np.concatenate([self.sizes[done:], tokenised.sizes])
        self.corpora = np.concatenate([self.corpora[done:], corpora])
        self.is_bad = np.concatenate([self.is_bad[done:], tokenised.is_bad])
        self.tokens = np.concatenate([self.tokens[at:], tokenised.tokens])[self.went_by :]
        self.first_document += done
        self.at, self.done, self.went_by = 0, 0, 0

    def _end(self, is_last: bool) -> Optional[int]:
        """Where the block that begins at ``at`` ends; None if that is not known yet."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        if self.at >= total:
            return None
        full = self.at + self.block_size
        if self.break_mode is SampleBreakMode.eos:
            document = np.searchsorted(self.ends, self.at, side="right")
            return min(int(self.ends[document]), full)
        if total < full:
            return total if is_last else None
        if self.break_mode is SampleBreakMode.none:
            return full
        last = int(np.searchsorted(self.ends, full, side="right")) - 1
        # Where no document ends within reach, the one that is too long is cut.
        return int(self.ends[last]) if last >= 0 and self.ends[last] > self.at else full

    def take(self, is_last: bool) -> Optional[Block]:
        """The next block; None if it takes more documents, or ``is_last``, to know it."""
        end = self._end(is_last)
        if end is None:
            return None
        # Documents of no tokens that follow the block's end belong to the next block.
        reached = int(np.searchsorted(self.ends, end))
        ended = reached + (int(self.ends[reached]) == end)
        tally = self._tally(ended)
        touched = slice(self.done, reached + 1)
        edges = np.concatenate([[self.at], self.ends[touched]])
        edges[-1] = end
        np.add.at(tally[:, TOKENS], self.corpora[touched], edges[1:] - edges[:-1])
        tokens = self.tokens[self.at : end + 1].copy()
        self.at, self.done, self.block = end, ended, self.block + 1
        following: Position = {
            "document": self.first_document + ended,
            "token": int(end - self.ends[reached] + self.sizes[reached]) if ended == reached else 0,
            "block": self.block,
        }
        return Block(self.block - 1, tokens, tally, following)

    def _tally(self, ended: int) -> np.ndarray:
        """The tally, tokens aside, of the documents at hand from ``done`` to ``ended``."""
        tally = np.zeros((self.num_corpora, len(TALLY)), dtype=np.int64)
        documents = slice(self.done, ended)
        kinds = np.where(self.sizes[documents] > 0, DOCUMENTS, EMPTY)
        kinds[self.is_bad[documents]] = BAD
        np.add.at(tally, (self.corpora[documents], kinds), 1)
        return tally

    def rest(self) -> np.ndarray:
        """The tally of the documents of no tokens behind the last block; told once."""
        tally, self.done = self._tally(len(self.ends)), len(self.ends)
        return tally

    def blocks(self, tokenised: Iterable[tuple[Range, Tokenised]]) -> Iterator[Block]:
        """The blocks of all that is ``tokenised``."""
        for run, tokens in tokenised:
            self.add(run.corpora, tokens)
            while (block := self.take(is_last=False)) is not None:
                yield block
        while (block := self.take(is_last=True)) is not None:
            yield block
