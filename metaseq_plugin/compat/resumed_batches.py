"""fairseq's iterators count the batches of a resumed epoch from its beginning.

``--skip-remainder-batch`` ends an epoch one batch early, and fairseq takes that batch off the number that is left,
as if nothing had gone by: an epoch of 7 updates that is resumed after 5 ended there, or failed. Grouping for
``--update-freq`` rounds the length of the whole epoch, which is wrong where another --update-freq began it. And the
loader that is kept for the next epoch keeps shuffling as it did in its first, whatever ``--curriculum`` says.
"""

import functools
from typing import Any, Callable

from metaseq_plugin.compat.errors import UserError


def counting_from_the_beginning(original: Callable[..., Any]) -> Callable[..., Any]:
    """``EpochBatchIterator._get_iterator_for_epoch`` whose length counts what was handed out before."""

    @functools.wraps(original)
    def get_iterator_for_epoch(
        self: Any,
        epoch: int,
        shuffle: bool,
        fix_batches_to_gpus: bool = False,
        offset: int = 0,
    ) -> Any:
        if self.reuse_dataloader and self.dataloader is not None:
            self.batch_sampler.shuffle = shuffle
            self.batch_sampler.fix_batches_to_gpus = fix_batches_to_gpus
        skips, self.skip_remainder_batch = self.skip_remainder_batch, False
        try:
            itr = original(self, epoch, shuffle, fix_batches_to_gpus, offset)
        finally:
            self.skip_remainder_batch = skips
        if skips and itr is not None:
            itr.take(len(itr) - 1)
        return itr

    return get_iterator_for_epoch


def grouping_what_is_left(original: Callable[..., None]) -> Callable[..., None]:
    """``GroupedIterator.__init__`` that groups the batches from the first that is left."""

    @functools.wraps(original)
    def init(self: Any, iterable: Any, chunk_size: int, skip_remainder_batch: bool = False) -> None:
        from fairseq.data import iterators

        gone = iterable.n if isinstance(iterable, iterators.CountingIterator) else 0
        left = len(iterable) - gone
        groups = left // chunk_size if skip_remainder_batch else -(-left // chunk_size)
        if skip_remainder_batch:
            if groups == 0:
                raise UserError(
                    "`--skip-remainder-batch` must leave an update of each epoch, but an epoch is "
                    "smaller than one. Leave it out, or set a smaller --batch-size or --update-freq."
                )
            # The epoch ends with the last group, whatever batches come after it.
            iterable.take(gone + groups * chunk_size)
        groups_gone = -(-gone // chunk_size)
        iterators.CountingIterator.__init__(
            self,
            iterators._chunk_iterator(iterable, chunk_size, skip_remainder_batch),
            start=groups_gone,
            total=groups_gone + groups,
        )
        self.chunk_size = chunk_size
        iterators.logger.info(f"grouped total_num_itrs = {groups_gone + groups}")

    return init
