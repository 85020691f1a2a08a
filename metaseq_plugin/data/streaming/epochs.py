"""The stream as fairseq's trainer takes it: an ``EpochBatchIterating`` over rounds of batches.

How many updates an epoch has is not known before its documents are tokenised. So ``has_next`` looks
one update ahead, ``len`` is an estimate for the progress bar, and fairseq's ``GroupedIterator``, which
needs an exact length, leaves the grouping for ``--update-freq`` to ``EpochBatches`` (see
``compat/grouped_batches.py``). The state is always that of the last update handed out: what was looked
at ahead of it, or skipped, has not gone by yet.

The state is in fairseq's ``extra_state["train_iterator"]``, under the key "streaming".
"""

import logging
import math
from itertools import islice
from typing import Any, Callable, Dict, List, Optional, Tuple, TypedDict

import numpy as np
from fairseq.data.iterators import EpochBatchIterating

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.empty_batch import Batch
from metaseq_plugin.data.skips import Skips
from metaseq_plugin.data.streaming.packing import START, TALLY
from metaseq_plugin.data.streaming.report import NamedTally, named, numbers, sentence
from metaseq_plugin.data.streaming.rounds import Rounds, RoundsState, Share
from metaseq_plugin.data.streaming.shuffling import ShuffleState
from metaseq_plugin.data.streaming.split import Identity, Split
from metaseq_plugin.data.streaming.tokens import Workers
from metaseq_plugin.storage.typed import check

logger = logging.getLogger(__name__)


class StreamingState(TypedDict):
    """Where a run is in its data; JSON."""

    identity: Identity  # of the split
    shuffle: ShuffleState  # where the epoch is
    seen: NamedTally  # in this epoch, by corpus
    seen_before: NamedTally  # in the epochs before
    samples_before: int  # blocks of the epochs before
    skipped: List[int]  # an update, and how much was skipped for it


class EpochBatches:
    """The batches of one epoch, or, once ``grouped``, lists of batches that make an update."""

    def __init__(self, rounds: Rounds, expected_rounds: int, epochs: "StreamingEpochs") -> None:
        self._rounds, self._epochs, self._expected_rounds = rounds, epochs, expected_rounds
        self._group: Optional[int] = None
        self._drops_remainder = False
        self._ahead: Optional[List[Batch]] = None
        self._mistake: Optional[UserError] = None  # met where the next item was looked for
        self._ahead_state = self.state = rounds.state()
        self._ended = self._has_skipped = False
        self._was_whole = self.state.num_blocks == 0
        # Items that went by, for progress bars; about as many after a resume with other ranks.
        self.n = self.state.num_blocks // rounds.share.blocks_a_round

    def grouped(self, size: int, drops_remainder: bool) -> "EpochBatches":
        """This iterator with ``size`` batches an item, or the next that has one; before the first."""
        epoch = self
        while not epoch._has_updates(size, drops_remainder):
            # fairseq needs an update of each epoch, and --skip-batches may leave none of this one.
            if epoch._was_whole and not epoch._has_skipped:
                raise UserError(
                    "`--skip-remainder-batch` must leave an update of each epoch, but an epoch is "
                    "smaller than one. Leave it out, or set a smaller --batch-size or --update-freq."
                )
            if self._epochs.epoch == self._epochs.max_epoch:
                raise UserError(
                    "`--skip-batches` must leave an update of the run, but goes past all that is left of "
                    f"its last epoch, {self._epochs.epoch}. Set a larger --max-epoch, or skip less."
                )
            epoch = self._epochs.next_epoch_itr(self._epochs.shuffle)
        return epoch

    def _has_updates(self, size: int, drops_remainder: bool) -> bool:
        self._group, self._drops_remainder = size, drops_remainder
        self.n //= size
        return self.has_next()

    def __len__(self) -> int:
        # An estimate, and never less than what is known to come.
        known = self.n + (self._ahead is not None)
        return max(math.ceil(self._expected_rounds / (self._group or 1)), known)

    def __iter__(self) -> "EpochBatches":
        return self

    def __next__(self) -> Any:  # a batch, or once grouped a list of them
        if not self.has_next():
            raise StopIteration
        if self._mistake is not None:
            raise self._mistake
        assert self._ahead is not None
        batches, self._ahead = self._ahead, None
        self.state = self._ahead_state
        self.n += 1
        self._epochs.handed_out(self.state)
        return batches if self._group is not None else batches[0]

    def has_next(self) -> bool:
        """Whether the epoch has another item; looks for it, and skips what is to be skipped.

        A mistake in the data of that item waits until it is asked for: fairseq looks ahead before it
        saves what is done, and needs no item behind the last update.
        """
        if self._ahead is None and not self._ended and self._mistake is None:
            try:
                self._look_ahead()
            except UserError as mistake:
                self._mistake = mistake
        return self._ahead is not None or self._mistake is not None

    def _look_ahead(self) -> None:
        while self._epochs.skips_next() and self._pull():
            self._epochs.skipped_one()
            self._has_skipped = True
        self._ahead = self._pull() or None
        self._ahead_state = self._rounds.state()
        if self._ahead is None:
            self._ended, self.state = True, self._ahead_state
            self._epochs.ended(self.state)

    def _pull(self) -> List[Batch]:
        """The batches of the next item; none at the end."""
        size, before = self._group or 1, self._rounds.state().num_blocks
        batches = list(islice(self._rounds, size))
        full = size * self._rounds.share.blocks_a_round
        if self._drops_remainder and self._rounds.state().num_blocks - before < full:
            return []
        return batches


class StreamingEpochs(EpochBatchIterating):
    """Epoch after epoch of ``split`` for one data-parallel rank.

    Args:
        epoch: the first, from 1.
        updates_done: tells how many updates the run has made.
        log_interval: items between two lines about the corpora; 0 for a split that is only read.
        max_epoch: the last; 0: there is none.
    """

    def __init__(
        self,
        split: Split,
        share: Share,
        workers: Workers,
        epoch: int = 1,
        skips: Optional[Skips] = None,
        updates_done: Callable[[], int] = lambda: 0,
        log_interval: int = 0,
        max_epoch: int = 0,
    ) -> None:
        self.split, self.share, self.workers, self.epoch = split, share, workers, max(epoch, 1)
        self.skips, self.updates_done = skips or Skips({}), updates_done
        self.log_interval, self.max_epoch = log_interval, max_epoch
        self.shuffle = True
        self._current: Optional[EpochBatches] = None
        self._resumed: Optional[RoundsState] = None
        nothing = np.zeros((len(split.drawn), len(TALLY)), dtype=np.int64)
        self._start = RoundsState({"start": START, "taken": 0}, nothing)
        self._samples_before, self._tally_before = 0, nothing  # in earlier epochs
        self._skipped = self.skips.state()  # when the last update was handed out

    # What fairseq asks for.

    def __len__(self) -> int:
        return math.ceil(self.split.expected_blocks() / self.share.blocks_a_round)

    @property
    def next_epoch_idx(self) -> int:
        return self.epoch + 1 if self.end_of_epoch() else self.epoch

    def next_epoch_itr(
        self,
        shuffle: bool = True,
        fix_batches_to_gpus: bool = False,
        set_dataset_epoch: bool = True,
    ) -> EpochBatches:
        """The batches of the next epoch, or of what is left of the one that was loaded."""
        if self._current is not None and self.end_of_epoch():
            self._samples_before, self._tally_before = self._totals(self._current.state)
            self.epoch += 1
        # The rest of a resumed epoch is in the order it was begun in, whatever --curriculum says now.
        state, self._resumed = self._resumed or self._start, None
        self.shuffle = self.shuffle if state.num_blocks else shuffle
        self._skipped = self.skips.state()
        rounds = self.split.rounds(
            self.epoch, self.shuffle, self.share, self.workers, state.shuffle, state.tally
        )
        self._current = EpochBatches(rounds, len(self), self)
        return self._current

    def end_of_epoch(self) -> bool:
        return self._current is not None and not self._current.has_next()

    @property
    def iterations_in_epoch(self) -> int:
        return self._current.n if self._current is not None else 0

    def state_dict(self) -> Dict[str, Any]:
        """The position behind the last update handed out."""
        ended = self.end_of_epoch()  # looks ahead, and then knows what the epoch leaves out
        epoch, state, skipped = self.epoch, self._state(), self._skipped
        samples_before, tally_before = self._samples_before, self._tally_before
        if ended:
            samples_before, tally_before = self._totals(state)
            epoch, state, skipped = epoch + 1, self._start, self.skips.state()
        names = self.split.corpora.names
        streaming: StreamingState = {
            "identity": self.split.identity,
            "shuffle": state.shuffle,
            "seen": named(names, state.tally),
            "seen_before": named(names, tally_before),
            "samples_before": samples_before,
            "skipped": skipped,
        }
        return {
            "version": 2,
            "epoch": epoch,
            "iterations_in_epoch": state.num_blocks // self.share.blocks_a_round,
            "shuffle": self.shuffle,
            "streaming": streaming,
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on from ``state_dict``; UserError where it belongs to other data or settings."""
        self.epoch, self._current = max(state_dict["epoch"], 1), None
        if "streaming" not in state_dict:
            if state_dict.get("iterations_in_epoch", 0):
                raise UserError(
                    "The checkpoint's place in its data must be one in streaming data, but it was "
                    "trained by another task. Set --reset-dataloader to begin the data anew."
                )
            return
        state: StreamingState = state_dict["streaming"]
        check(state, StreamingState, "extra_state.train_iterator.streaming", "The checkpoint")
        names = different(state["identity"], self.split.identity)
        if names:
            raise UserError(
                f"A run must resume on the data and settings that it was begun with, but {names} differ "
                "from the checkpoint's. Set them as they were, or --reset-dataloader to begin the data "
                "anew."
            )
        corpora = self.split.corpora.names
        self._resumed = RoundsState(state["shuffle"], numbers(corpora, state["seen"]))
        self.shuffle = state_dict["shuffle"]
        self._samples_before = state["samples_before"]
        self._tally_before = numbers(corpora, state["seen_before"])
        self.skips = Skips(self.skips.skips, *state["skipped"])

    # What the batches of the epoch at hand tell.

    def skips_next(self) -> bool:
        """Whether the batches that come next are to be gone past."""
        return bool(self.skips.skips) and self.skips.left(self.updates_done() + 1) > 0

    def skipped_one(self) -> None:
        self.skips.done += 1
        logger.info(f"--skip-batches: went past the batches of update {self.skips.update}")

    def handed_out(self, state: RoundsState) -> None:
        self._skipped = self.skips.state()
        if self.log_interval and self.iterations_in_epoch % self.log_interval == 0:
            self._log("so far", state)

    def ended(self, state: RoundsState) -> None:
        if state.num_blocks == 0:
            raise UserError(
                f"A split must hold text, but all documents below {self.split.corpora.root} are "
                "empty or bad. Name another split."
            )
        if self.log_interval:
            self._log("in all", state)

    def _log(self, when: str, state: RoundsState) -> None:
        said = sentence(self.split.corpora.names, state.tally, self.split.drawn)
        logger.info(
            f"epoch {self.epoch} {when}: {state.num_blocks:,} samples "
            f"({self._totals(state)[0]:,} in this run); {said}"
        )

    def _state(self) -> RoundsState:
        if self._current is not None:
            return self._current.state
        return self._resumed or self._start

    def _totals(self, state: RoundsState) -> Tuple[int, np.ndarray]:
        """Samples and tally of ``state`` and the epochs before it together."""
        return self._samples_before + state.num_blocks, self._tally_before + state.tally


def different(saved: Identity, ours: Identity) -> str:
    """What two splits differ in, in words; empty if they give the same samples."""
    return " and ".join(name for name, value in ours.items() if saved.get(name) != value)
