"""``--skip-batches`` over binarised blocks: an epoch's iterator that goes past the batches of whole updates.

fairseq groups the batches for ``--update-freq`` and asks, behind each update, whether another one comes. What is to be
skipped before that one is gone past when its batches are asked for, so that the state that is saved in between is that
of the last update handed out. Only where it takes all that is left of the epoch, it is gone past at once: the epoch has
ended then, and the next one goes on with what is still to be skipped.
"""

import logging
from typing import Any, Callable, Protocol

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.skips import Skips

logger = logging.getLogger(__name__)


class Epochs(Protocol):
    """``epochs.py:BlockEpochs``."""

    skips: Skips
    updates_done: Callable[[], int]
    shard_id: int
    epoch: int
    last_epoch: int  # that there is; 0: there is none
    shuffle: bool

    def next_epoch_itr(self, shuffle: bool = True) -> "SkippingBatches":
        """The batches of the next epoch."""


class SkippingBatches:
    """The batches of an epoch that are not grouped yet: fairseq's iterator, which says ``grouped`` as streams do."""

    def __init__(self, batches: Any, epochs: Epochs) -> None:
        self.batches, self.epochs = batches, epochs

    def grouped(self, size: int, drops_remainder: bool) -> "SkippingUpdates":
        """This iterator with ``size`` batches an item, or that of the next epoch of which an update is left."""
        from fairseq.data.iterators import GroupedIterator

        updates = SkippingUpdates(GroupedIterator(self.batches, size, drops_remainder), self.epochs)
        if updates.has_next():  # which fairseq needs of each epoch
            return updates
        if self.epochs.epoch == self.epochs.last_epoch:
            raise UserError(
                "`--skip-batches` and --rewind-skip must leave an update of each data folder and of the last epoch, "
                f"but go past all that is left of epoch {self.epochs.epoch}. Skip less, or set a larger --max-epoch."
            )
        return self.epochs.next_epoch_itr(self.epochs.shuffle).grouped(size, drops_remainder)


class SkippingUpdates:
    """The updates of an epoch, of which some are gone past; ``n`` counts these, too."""

    def __init__(self, updates: Any, epochs: Epochs) -> None:
        self.updates, self.epochs = updates, epochs

    @property
    def n(self) -> int:
        return int(self.updates.n)

    def __len__(self) -> int:
        return len(self.updates)

    def __iter__(self) -> "SkippingUpdates":
        return self

    def __next__(self) -> Any:
        if not self.has_next():
            raise StopIteration
        self._go_past(self._to_skip())
        return next(self.updates)

    def has_next(self) -> bool:
        """Whether the epoch has another update to be made."""
        left = len(self.updates) - self.n
        if left > self._to_skip():
            return True
        self._go_past(left)
        return False

    def _to_skip(self) -> int:
        return self.epochs.skips.left(self.epochs.updates_done() + 1)

    def _go_past(self, count: int) -> None:
        for _ in range(count):
            next(self.updates)
            self.epochs.skips.done += 1
        if count and self.epochs.shard_id == 0:
            update = self.epochs.skips.update
            logger.info(f"went past the batches of {count} updates before update {update}")
