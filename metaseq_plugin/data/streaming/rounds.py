"""Batches, dealt to the data-parallel ranks in rounds: batch b of the epoch goes to rank b mod N.

A rank sees all blocks go by and makes tensors of its own. The state holds whole rounds, so it means
the same to any number of ranks: it says which blocks of the epoch went by.

B blocks a batch, T tokens of the longest block of a batch (a multiple of 8 where that is shorter than
the longest allowed).
"""

from itertools import islice
from typing import List, NamedTuple, Sequence

import numpy as np
import torch

from metaseq_plugin.data.empty_batch import Batch, empty_batch
from metaseq_plugin.data.streaming.packing import Block, Packer
from metaseq_plugin.data.streaming.shuffling import ShuffledBlocks, ShuffleState
from metaseq_plugin.tokenizers.base import PAD

WIDTH_MULTIPLE = 8  # tensor cores want it
EPOCH_BITS = 40  # a block's id is its number, and its epoch above these bits


class Share(NamedTuple):
    """How blocks become batches and whose they are."""

    batch_size: int  # B
    num_ranks: int  # N
    rank: int
    block_size: int  # the longest that a block can be, tokens

    @property
    def blocks_a_round(self) -> int:
        return self.batch_size * self.num_ranks


def collated(blocks: Sequence[Block], epoch: int, block_size: int) -> Batch:
    """``blocks`` as fairseq's sample: ids (B,), src_tokens and target (B, T), padded on the right."""
    if not blocks:
        return empty_batch(block_size)
    sizes = [len(block.tokens) - 1 for block in blocks]
    width = min(-(-max(sizes) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE, max(block_size, *sizes))
    source = np.full((len(blocks), width), PAD, dtype=np.int64)
    target = np.full((len(blocks), width), PAD, dtype=np.int64)
    for row, (block, size) in enumerate(zip(blocks, sizes)):
        without_loss = block.tokens < 0  # a source's, see ``tokens.PairReader``
        tokens = np.where(without_loss, ~block.tokens, block.tokens)
        source[row, :size] = tokens[:-1]
        target[row, :size] = np.where(without_loss, PAD, tokens)[1:]
    numbers = [(epoch << EPOCH_BITS) + block.number for block in blocks]
    return {
        "id": torch.tensor(numbers),
        "nsentences": len(blocks),
        "ntokens": int(np.count_nonzero(target != PAD)),  # that have a target
        "net_input": {"src_tokens": torch.from_numpy(source), "src_lengths": torch.tensor(sizes)},
        "target": torch.from_numpy(target),
    }


class RoundsState(NamedTuple):
    """What went by, of all ranks."""

    shuffle: ShuffleState
    tally: np.ndarray  # (C, 4) of its blocks

    @property
    def num_blocks(self) -> int:
        """Blocks of the epoch."""
        return self.shuffle["start"]["block"] + self.shuffle["taken"]


class Rounds:
    """Iterates over this rank's batches.

    Args:
        packer: where the blocks come from; it knows what followed the last of them.
        tally: of the blocks of the epoch that went by before, (C, 4).
    """

    def __init__(
        self, packer: Packer, blocks: ShuffledBlocks, share: Share, epoch: int, tally: np.ndarray
    ) -> None:
        self.packer, self.blocks, self.share, self.epoch = packer, blocks, share, epoch
        self.tally = tally

    def __iter__(self) -> "Rounds":
        return self

    def __next__(self) -> Batch:
        batch_size, _, rank, block_size = self.share
        dealt: List[Block] = list(islice(self.blocks, self.share.blocks_a_round))
        if not dealt:
            self.tally = self.tally + self.packer.rest()
            raise StopIteration
        for block in dealt:
            self.tally = self.tally + block.tally
        own = dealt[rank * batch_size : (rank + 1) * batch_size]
        return collated(own, self.epoch, block_size)

    def state(self) -> RoundsState:
        """What it takes to go on behind the last round given."""
        return RoundsState(self.blocks.state(), self.tally)
