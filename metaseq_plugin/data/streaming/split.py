"""One split, ready to be read from any state: the chain put together."""

import hashlib
import logging
import math
from functools import cached_property
from typing import Dict, Iterator, NamedTuple, Union

import numpy as np

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.streaming.corpora import Corpora
from metaseq_plugin.data.streaming.mixing import Mixing, documents_drawn
from metaseq_plugin.data.streaming.order import DocumentOrder
from metaseq_plugin.data.streaming.packing import Packer
from metaseq_plugin.data.streaming.rounds import Rounds, Share
from metaseq_plugin.data.streaming.shuffling import ShuffledBlocks, ShuffleState
from metaseq_plugin.data.streaming.tokens import (
    NAMED_PROBLEMS,
    Range,
    Reader,
    Tokenised,
    Workers,
    ranges,
)

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4  # of English in JSON, roughly; for estimates only

Identity = Dict[str, Union[str, int]]


class Settings(NamedTuple):
    """What the samples and their order depend on, beside the files and the tokenizer."""

    block_size: int
    break_mode: SampleBreakMode
    window: int  # blocks
    seed: int
    mixing: Mixing


class Split:
    """The documents of a split as rounds of batches.

    Args:
        reader: makes tokens of them.
    """

    def __init__(self, corpora: Corpora, settings: Settings, reader: Reader) -> None:
        self.corpora, self.settings, self.reader = corpora, settings, reader
        self.drawn = documents_drawn(
            corpora.names, corpora.num_documents, corpora.num_bytes, settings.mixing
        )
        self._num_named = 0

    def rounds(
        self,
        epoch: int,
        shuffles: bool,
        share: Share,
        workers: Workers,
        state: ShuffleState,
        tally: np.ndarray,
    ) -> Rounds:
        """The rounds of ``epoch`` behind ``state``, up to which ``tally`` (C, 4) was seen."""
        block_size, break_mode, window, seed, _ = self.settings
        order = DocumentOrder(self.corpora.num_documents, self.drawn, seed, epoch, shuffles)
        window = window if shuffles else 1
        runs = ranges(order, self.corpora, state["start"]["document"])
        tokenised = workers.tokenised(runs, window * block_size * BYTES_PER_TOKEN)
        packer = Packer(block_size, break_mode, len(self.drawn), state["start"])
        blocks = packer.blocks(tokenised if share.rank else self._reported(tokenised))
        shuffled = ShuffledBlocks(blocks, window, seed, epoch, state)
        return Rounds(packer, shuffled, share, epoch, tally)

    def _reported(
        self, tokenised: Iterator[tuple[Range, Tokenised]]
    ) -> Iterator[tuple[Range, Tokenised]]:
        """``tokenised``, with what is wrong in it logged as it goes by."""
        for run, tokens in tokenised:
            for problem in tokens.problems:
                self._num_named += 1
                if self._num_named <= NAMED_PROBLEMS:
                    logger.warning(f"left out: {problem}")
                if self._num_named == NAMED_PROBLEMS:
                    logger.warning("more bad documents are counted, but not named")
            yield run, tokens

    @cached_property
    def identity(self) -> Identity:
        """All that a state depends on; two splits of one identity give the same samples.

        Not --skip-bad-documents: it decides whether a run ends at a bad document or goes past it, and
        one that ended there must be able to go on.
        """
        block_size, break_mode, window, seed, _ = self.settings
        tokenizer = hashlib.sha256()
        for name, content in sorted(self.reader.tokenizer.files().items()):
            tokenizer.update(name.encode() + content)
        return {
            "the files of `DATA`": self.corpora.fingerprint(),
            "the tokenizer": tokenizer.hexdigest()[:16],
            "--tokens-per-sample": block_size,
            "--sample-break-mode": break_mode.value,
            "--shuffle-window": window,
            "--seed": seed,
            "the keys of a record": " ".join(self.reader.keys),
            "the documents drawn from each corpus": " ".join(map(str, self.drawn)),
        }

    def expected_blocks(self) -> int:
        """About how many blocks an epoch has."""
        means = self.corpora.num_bytes / self.corpora.num_documents
        num_tokens = float(self.drawn @ means) / BYTES_PER_TOKEN
        num_full = math.ceil(num_tokens / self.settings.block_size)
        is_eos = self.settings.break_mode is SampleBreakMode.eos
        return max(int(self.drawn.sum()), num_full) if is_eos else num_full
