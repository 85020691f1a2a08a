"""Epochs over binarised blocks that go on under other settings, with every block once an epoch.

fairseq makes an epoch's batches anew when a run resumes, and goes on at the number of batches seen. That is
the same place only while the batches are the same. So the state says, beside fairseq's keys, how the epoch's
batches were made and how many of them all ranks together were handed ("blocks", ``EpochState``). On a resume:
(1) batches made as they were: their order is the old one, and goes on behind what was handed out, with as
    many ranks as there are now;
(2) otherwise the old order is made once more, the blocks that were handed out are left out, and the others
    become batches of today's settings. The state then has two parts; each such resume adds one.

What ``--skip-batches`` goes past (``skipping.py``) counts as handed out, once an update after it is made.
"""

import itertools
import logging
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypedDict

import numpy as np
from fairseq.data import FairseqDataset, data_utils
from fairseq.data.iterators import EpochBatchIterator, ShardedIterator

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.skipping import SkippingBatches
from metaseq_plugin.data.skips import Skips
from metaseq_plugin.storage.typed import check

logger = logging.getLogger(__name__)

Batches = Sequence[Sequence[int]]  # numbers of blocks, batch by batch
Within = Callable[[np.ndarray, Any], np.ndarray]  # those of some blocks that are not too long


class Making(NamedTuple):
    """All that decides what an epoch's batches are and how they are shuffled, besides the data and the epoch."""

    seed: int
    max_tokens: Optional[int]
    max_sentences: Optional[int]
    required_batch_size_multiple: int
    max_positions: Any  # longest block; longer ones are left out
    group: int  # batches that are shuffled as one: the ranks' under --grouped-shuffling, else 1

    def batches(
        self, dataset: FairseqDataset, within: Within, left: Optional[np.ndarray] = None
    ) -> Batches:
        """The batches of ``dataset``, or of its blocks that are ``left``, (blocks,) bool."""
        with data_utils.numpy_seed(self.seed):
            indices = dataset.ordered_indices()
        if left is not None:
            indices = indices[left[indices]]
        if self.max_positions is not None:
            indices = within(indices, self.max_positions)
        if len(indices) == 0:
            return ()
        return tuple(
            dataset.batch_by_size(
                indices,
                max_tokens=self.max_tokens,
                max_sentences=self.max_sentences,
                required_batch_size_multiple=self.required_batch_size_multiple,
            )
        )

    def order(self, batches: Batches, epoch: int, shuffle: bool) -> Batches:
        """``batches`` in the order that all ranks together get them; a group that is not full is left out."""
        if not shuffle:
            return batches
        groups = [
            batches[start : start + self.group]
            for start in range(0, len(batches) - self.group + 1, self.group)
        ]
        with data_utils.numpy_seed(self.seed + epoch):
            np.random.shuffle(groups)
        return list(itertools.chain.from_iterable(groups))


class Part(TypedDict):
    """Batches of an epoch that were made in one way; JSON."""

    making: Dict[str, Any]  # ``Making``
    batches: int  # handed out, all ranks together


class EpochState(TypedDict):
    """Which blocks of an epoch were handed out; JSON."""

    num_blocks: int  # of the epoch
    num_tokens: int
    parts: List[Part]  # one after the other; none at an epoch's beginning


class _Skipped(TypedDict, total=False):
    skipped: "Tuple[int, int]"  # an update, and how much was skipped for it


class Resumed(NamedTuple):
    """The epoch that was loaded."""

    epoch: int
    earlier: List[Part]  # made in other ways than now
    batches: Batches  # of what those left
    lead: int  # of their order, handed out before this rank's rounds begin


class BlockEpochs(EpochBatchIterator):
    """fairseq's ``EpochBatchIterator`` with a state that names blocks.

    Args:
        within: those of some blocks that are no longer than a length.
        skips: what to go past.
        updates_done: tells how many updates the run has made.
        last_epoch: of these data; 0: there is none.
        options: fairseq's, of the iterator.
    """

    def __init__(
        self,
        dataset: FairseqDataset,
        making: Making,
        within: Within,
        skips: Optional[Skips] = None,
        updates_done: Callable[[], int] = lambda: 0,
        last_epoch: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            dataset,
            dataset.collater,
            making.batches(dataset, within),
            seed=making.seed,
            reuse_dataloader=True,
            **options,
        )
        self.making, self.within = making, within
        self.skips, self.updates_done = skips or Skips({}), updates_done
        self.last_epoch = last_epoch
        self._resumed: Optional[Resumed] = None
        self._rounds: Optional[int] = None

    def __len__(self) -> int:
        """Batches of this rank in the epoch at hand, those that went by among them."""
        return super().__len__() if self._rounds is None else self._rounds

    def ordered_batches(
        self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool
    ) -> List[Sequence[int]]:
        """This rank's batches of ``epoch``: batch b of the order goes to rank b mod ranks."""
        resumed = self._resumed_of(epoch)
        batches = self.frozen_batches if resumed is None else resumed.batches
        order = self.making.order(batches, epoch, shuffle)[resumed.lead if resumed else 0 :]
        own = list(ShardedIterator(order, self.num_shards, self.shard_id, fill_value=[]))
        self._rounds = len(own)
        return own

    def next_epoch_itr(
        self,
        shuffle: bool = True,
        fix_batches_to_gpus: bool = False,
        set_dataset_epoch: bool = True,
    ) -> Any:
        """The next epoch, or what is left of the one that was loaded, in the order it was begun in."""
        if self._next_epoch_itr is not None:
            shuffle = self.shuffle
        itr = super().next_epoch_itr(shuffle, fix_batches_to_gpus, set_dataset_epoch)
        return SkippingBatches(itr, self) if self.skips.skips else itr

    def state_dict(self) -> Dict[str, Any]:
        """The place behind the last batch handed out, which is the next epoch's beginning at an epoch's end."""
        state = super().state_dict()
        parts: List[Part] = []
        if state["epoch"] == self.epoch:
            resumed = self._resumed_of(self.epoch)
            handed = state["iterations_in_epoch"] * self.num_shards
            if resumed is not None:
                parts, handed = list(resumed.earlier), handed + resumed.lead
            parts.append({"making": self.making._asdict(), "batches": handed})
        num_blocks, num_tokens = self._size()
        blocks: EpochState = {"num_blocks": num_blocks, "num_tokens": num_tokens, "parts": parts}
        return {**state, "blocks": {**blocks, "skipped": self.skips.state()}}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on from ``state_dict``; UserError where its blocks are not these."""
        self._resumed = None
        if "blocks" not in state_dict:  # of another task, or of earlier versions
            super().load_state_dict(state_dict)
            return
        self.epoch, self.shuffle = state_dict["epoch"], state_dict["shuffle"]
        self._next_epoch_itr = None
        blocks: EpochState = state_dict["blocks"]
        check(blocks, EpochState, "extra_state.train_iterator.blocks", "The checkpoint")
        check(blocks, _Skipped, "extra_state.train_iterator.blocks", "The checkpoint")
        self.skips = Skips(self.skips.skips, *state_dict["blocks"].get("skipped", (0, 0)))
        if not blocks["parts"]:
            return
        self._check_size(blocks)
        *earlier, last = blocks["parts"]
        position = last["batches"]
        if Making(**last["making"]) != self.making:
            earlier, position = blocks["parts"], 0
        batches = self._batches_after(earlier) if earlier else self.frozen_batches
        rounds, lead = divmod(position, self.num_shards)
        self._resumed = Resumed(self.epoch, earlier, batches, lead)
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, self.shuffle, offset=rounds)

    def _batches_after(self, parts: Sequence[Part]) -> Batches:
        """Batches, made as they are now, of the blocks that ``parts`` did not hand out."""
        left = np.ones(len(self.dataset), dtype=bool)
        for part in parts:
            making = Making(**part["making"])
            batches = making.batches(self.dataset, self.within, left)
            order = making.order(batches, self.epoch, self.shuffle)
            for batch in order[: part["batches"]]:
                left[batch] = False
        batches = self.making.batches(self.dataset, self.within, left)
        if self.shard_id == 0:
            logger.info(
                f"epoch {self.epoch} goes on with the {np.count_nonzero(left):,} of its {len(left):,} blocks "
                f"that were not seen, in {len(batches):,} batches of the settings of now"
            )
        return batches

    def _resumed_of(self, epoch: int) -> Optional[Resumed]:
        return self._resumed if self._resumed is not None and self._resumed.epoch == epoch else None

    def _size(self) -> Tuple[int, int]:
        """Blocks and tokens of the data."""
        return len(self.dataset), int(np.sum(self.dataset.sizes, dtype=np.int64))

    def _check_size(self, saved: EpochState) -> None:
        ours = self._size()
        if (saved["num_blocks"], saved["num_tokens"]) != ours:
            raise UserError(
                "An epoch must go on over the blocks that it was begun with, but the checkpoint's were "
                f"{saved['num_blocks']:,} of {saved['num_tokens']:,} tokens and these are {ours[0]:,} of "
                f"{ours[1]:,}. Set the data, --tokens-per-sample and --sample-break-mode as they were, or "
                "--reset-dataloader to begin the data anew."
            )
