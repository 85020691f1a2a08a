"""Blocks in windows of S, each window in a random order of its own.

Documents come in random order already; this keeps the blocks that one long document is cut into from
following each other. Windows are blocks 0 … S-1, S … 2S-1, … of the epoch whoever reads them, so the
order depends on the seed and the epoch alone.
"""

from itertools import islice
from typing import Iterable, TypedDict

import numpy as np

from metaseq_plugin.data.streaming.packing import Block, Position

WINDOW_KEY = 3  # keeps this use of the seed apart from the others


class ShuffleState(TypedDict):
    """Where the window at hand starts, and how many of its blocks went by."""

    start: Position
    taken: int


class ShuffledBlocks:
    """Iterates over ``blocks``, which begin at ``state["start"]``, window by window.

    Args:
        window: S, in blocks; 1 leaves the order as it is.
    """

    def __init__(
        self, blocks: Iterable[Block], window: int, seed: int, epoch: int, state: ShuffleState
    ) -> None:
        self._blocks = iter(blocks)
        self.window, self.seed, self.epoch = window, seed, epoch
        self._start, self._taken = state["start"], state["taken"]
        self._held: list[Block] = []  # the window at hand
        self._ahead: list[Block] = []  # of the next window: one is packed for each that is given
        self._order: np.ndarray = np.zeros(0, dtype=np.int64)

    def __iter__(self) -> "ShuffledBlocks":
        return self

    def __next__(self) -> Block:
        if not self._held:
            self._fill()
        block = self._held[self._order[self._taken]]
        self._taken += 1
        if self._taken == len(self._held):
            self._start, self._taken, self._held = self._held[-1].next, 0, []
        self._ahead.extend(islice(self._blocks, 1))
        return block

    def _fill(self) -> None:
        rest = islice(self._blocks, self.window - len(self._ahead))
        self._held, self._ahead = [*self._ahead, *rest], []
        if not self._held:
            raise StopIteration
        number = self._start["block"] // self.window
        generator = np.random.default_rng([self.seed, WINDOW_KEY, self.epoch, number])
        self._order = generator.permutation(len(self._held))

    def state(self) -> ShuffleState:
        """What it takes to go on behind the last block given."""
        return {"start": self._start, "taken": self._taken}
