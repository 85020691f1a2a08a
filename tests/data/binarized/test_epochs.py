"""Epochs over blocks: stopped anywhere they go on as if never stopped, and under other settings with every block once."""

import itertools
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import pytest
from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.epochs import BlockEpochs
from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask

EPOCHS = 3
LONGEST = 16
OPTIONS = SimpleNamespace(
    data="", tokens_per_sample=LONGEST, skip_batches=None, max_epoch=0
)  # of the task


class Blocks(FairseqDataset):
    """Numbered blocks of 1 to 16 tokens; a batch is the list of its numbers."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.sizes = np.random.default_rng(seed).integers(1, LONGEST + 1, count)

    def __getitem__(self, index: int) -> int:
        return int(index)

    def __len__(self) -> int:
        return len(self.sizes)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: Any) -> Any:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> Any:
        return np.lexsort([np.random.permutation(len(self)), self.sizes])

    def collater(self, samples: List[int]) -> List[int]:
        return samples


class Options(NamedTuple):
    """Of fairseq-train."""

    ranks: int = 1
    update_freq: Tuple[int, ...] = (1,)
    max_tokens: Optional[int] = None
    max_sentences: Optional[int] = 4
    required_batch_size_multiple: int = 1
    skip_remainder_batch: bool = False
    grouped_shuffling: bool = False
    curriculum: int = 0
    seed: int = 1
    update_ordered_indices_seed: bool = False
    folders: int = 1
    num_workers: int = 0
    data_buffer_size: int = 0


Update = List[List[List[int]]]  # rank, batch, block


class Run:
    """What ``fairseq_cli.train`` does with the data, on every rank."""

    def __init__(self, options: Options, sizes: Tuple[int, ...], state: Any = None) -> None:
        self.options, self.sizes = options, sizes
        self.tasks = [OPTLanguageModelingTask(OPTIONS, None) for _ in range(options.ranks)]
        self.datasets: Dict[int, Blocks] = {}
        self.iterators = self.get_iterators(state["epoch"] if state else 1)
        for iterator in self.iterators:
            if state:
                iterator.load_state_dict(state)
        self.groups: List[Any] = []

    def get_iterators(self, epoch: int) -> List[Any]:
        folder = (epoch - 1) % self.options.folders
        dataset = self.datasets.setdefault(folder, Blocks(self.sizes[folder], folder))
        return [self.get_iterator(rank, dataset, epoch) for rank in range(self.options.ranks)]

    def get_iterator(self, rank: int, dataset: Blocks, epoch: int) -> Any:
        """``Trainer.get_train_iterator``."""
        options = self.options
        return self.tasks[rank].get_batch_iterator(
            dataset=dataset,
            max_tokens=options.max_tokens,
            max_sentences=options.max_sentences,
            max_positions=LONGEST,
            ignore_invalid_inputs=True,
            required_batch_size_multiple=options.required_batch_size_multiple,
            seed=options.seed + epoch if options.update_ordered_indices_seed else options.seed,
            num_shards=options.ranks,
            shard_id=rank,
            num_workers=options.num_workers,
            epoch=epoch,
            data_buffer_size=options.data_buffer_size,
            disable_iterator_cache=options.folders > 1,
            skip_remainder_batch=options.skip_remainder_batch,
            grouped_shuffling=options.grouped_shuffling,
            update_epoch_batch_itr=False,
        )

    @property
    def epoch(self) -> int:
        return self.iterators[0].epoch

    def begin(self) -> bool:
        """The next epoch, if there is one."""
        if self.groups:
            self.iterators = self.get_iterators(self.iterators[0].next_epoch_idx)
        if self.iterators[0].next_epoch_idx > EPOCHS:
            return False
        self.groups = []
        for iterator in self.iterators:
            itr = iterator.next_epoch_itr(shuffle=iterator.next_epoch_idx > self.options.curriculum)
            freqs = self.options.update_freq
            freq = freqs[min(iterator.epoch, len(freqs)) - 1]
            self.groups.append(GroupedIterator(itr, freq, self.options.skip_remainder_batch))
        return True

    def update(self) -> Optional[Update]:
        """The batches of the next update; None after the last."""
        if not (self.groups and self.groups[0].has_next()) and not self.begin():
            return None
        assert len({group.has_next() for group in self.groups}) == 1
        return [[list(batch) for batch in next(group)] for group in self.groups]

    def state(self) -> Dict[str, Any]:
        states = [iterator.state_dict() for iterator in self.iterators]
        assert all(state == states[0] for state in states)
        return states[0]


def blocks_of(updates: List[Update]) -> "Counter[int]":
    return Counter(
        block for update in updates for rank in update for batch in rank for block in batch
    )


def random_options(rng: random.Random) -> Options:
    ranks = rng.choice([1, 1, 2, 3])
    by_tokens = rng.random() < 0.4
    return Options(
        ranks=ranks,
        update_freq=rng.choice([(1,), (2,), (3,), (2, 1), (1, 3, 2)]),
        max_tokens=rng.choice([32, 50]) if by_tokens else None,
        max_sentences=None if by_tokens else rng.choice([2, 3, 4]),
        required_batch_size_multiple=rng.choice([1, 2]),
        skip_remainder_batch=rng.random() < 0.5,
        grouped_shuffling=rng.random() < 0.4,
        curriculum=rng.choice([0, 0, 1, 2]),
        seed=rng.choice([1, 7]),
        update_ordered_indices_seed=rng.random() < 0.3,
        folders=rng.choice([1, 1, 2]),
        data_buffer_size=rng.choice([0, 0, 3]),
    )


@pytest.mark.parametrize("number", range(40))
def test_stopped_after_any_update_is_the_run_that_never_stopped(number: int) -> None:
    rng = random.Random(number)
    options = random_options(rng)
    sizes = (rng.randint(40, 60), rng.randint(40, 60))
    whole = Run(options, sizes)
    updates, states = [], []
    while (update := whole.update()) is not None:
        updates.append(update)
        states.append(whole.state())
    assert states[-1]["epoch"] == EPOCHS + 1
    for done in range(1, len(updates) + 1):
        resumed = Run(options, sizes, states[done - 1])
        for later in range(done, len(updates)):
            assert resumed.update() == updates[later], (options, done, later)
            assert resumed.state() == states[later], (options, done, later)
        assert resumed.update() is None, (options, done)


# Workers of an epoch that is left in the middle take 20 s to end.
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_change_nothing(workers: int) -> None:
    plain, sizes = Options(skip_remainder_batch=True, update_freq=(2,)), (30,)
    options = plain._replace(num_workers=workers, data_buffer_size=3)
    whole, stopped = Run(plain, sizes), Run(options, sizes)
    expected = list(iter(whole.update, None))
    seen = [stopped.update(), stopped.update()]
    rest = list(iter(Run(options, sizes, stopped.state()).update, None))
    assert seen + rest == expected


@pytest.mark.parametrize("number", range(12))
def test_the_order_is_fairseqs(number: int) -> None:
    options = random_options(random.Random(100 + number))._replace(
        skip_remainder_batch=False, update_ordered_indices_seed=False
    )
    run = Run(options, (47, 53))
    dataset = run.datasets[0]
    for rank, ours in enumerate(run.iterators):
        stock = EpochBatchIterator(
            dataset, dataset.collater, ours.frozen_batches, seed=options.seed,
            num_shards=options.ranks, shard_id=rank, grouped_shuffling=options.grouped_shuffling,
        )  # fmt: skip
        for epoch, shuffle in itertools.product((1, 2), (True, False)):
            pairs = itertools.zip_longest(
                stock.ordered_batches(epoch, False, shuffle),
                ours.ordered_batches(epoch, False, shuffle),
            )
            assert all(list(left) == list(right) for left, right in pairs)


CHANGES: Dict[str, Dict[str, Any]] = {
    "larger": {"max_sentences": 8},
    "smaller": {"max_sentences": 2},
    "tokens": {"max_sentences": None, "max_tokens": 40},
    "ranks": {"ranks": 3},
    "more updates": {"update_freq": (3,)},
    "seed": {"seed": 5},
    "multiple": {"max_sentences": 5, "required_batch_size_multiple": 5},
    "all": {"max_sentences": 3, "ranks": 2, "update_freq": (2,), "seed": 3, "curriculum": 2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_under_other_settings_every_block_comes_once_an_epoch(change: str) -> None:
    sizes = (123,)
    before = Options(ranks=2, update_freq=(2,), curriculum=1)
    after = before._replace(**CHANGES[change])
    whole, done = Run(before, sizes), []
    stops = 0
    while (update := whole.update()) is not None and whole.epoch == 1:
        done.append(update)
        state = whole.state()
        if state["epoch"] > 1:
            break
        stops += 1
        resumed = Run(after, sizes, state)
        rest: List[Update] = []
        while (more := resumed.update()) is not None and resumed.epoch == 1:
            rest.append(more)
        assert blocks_of(done + rest) == Counter(range(123)), (change, len(done))
        second = [more, *iter(resumed.update, None)]
        assert blocks_of([u for u in second if u]) == Counter(dict.fromkeys(range(123), 2))
    assert stops == 7  # of 8 updates


@pytest.mark.parametrize("number", range(10))
def test_an_epoch_may_change_again_and_again(number: int) -> None:
    rng = random.Random(number)
    sizes, state = (123,), None
    done: List[Update] = []
    lengths: List[int] = []
    while True:
        options = Options(
            ranks=rng.choice([1, 2, 3]),
            update_freq=(rng.choice([1, 2]),),
            max_sentences=rng.choice([2, 3, 4]),
            seed=rng.choice([1, 2]),
        )
        run = Run(options, sizes, state)
        for _ in range(rng.choice([1, 2, 3])):
            update = run.update()
            assert update is not None
            done.append(update)
            state = run.state()
            if state["epoch"] == 2:
                assert blocks_of(done) == Counter(range(123))
                assert state["blocks"]["parts"] == []
                assert max(lengths) >= 3
                return
            assert not [n for n, times in blocks_of(done).items() if times > 1]
        lengths.append(len(run.state()["blocks"]["parts"]))


def test_other_ranks_go_on_with_the_same_batches() -> None:
    one = Run(Options(update_freq=(2,)), (50,))
    two = Run(Options(ranks=2), (50,))
    for _ in range(3):
        one.update(), two.update()
    assert [b for update in iter(one.update, None) for b in update[0]] == [
        batch
        for update in iter(Run(Options(update_freq=(2,)), (50,), two.state()).update, None)
        for batch in update[0]
    ]


def test_other_blocks_are_refused_in_an_epoch_and_taken_at_its_beginning() -> None:
    run = Run(Options(), (20,))
    run.update()
    with pytest.raises(UserError, match=r"the checkpoint's were 20 of .* and these are 21 of"):
        Run(Options(), (21,), run.state())
    for _ in range(4):
        run.update()
    assert run.state()["epoch"] == 2
    assert Run(Options(), (21,), run.state()).update() is not None


def test_a_position_without_blocks_is_fairseqs() -> None:
    run = Run(Options(), (50,))
    run.update(), run.update()
    state = run.state()
    del state["blocks"]
    assert Run(Options(), (50,), state).update() == run.update()


def test_an_epoch_too_small_for_an_update_is_refused() -> None:
    with pytest.raises(UserError, match="`--skip-remainder-batch` must leave an update"):
        Run(Options(skip_remainder_batch=True, update_freq=(4,)), (16,)).update()


def test_a_dataset_of_blocks_too_long_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    task = OPTLanguageModelingTask(OPTIONS, None)
    dataset = Blocks(50)
    epochs, again = (
        task.get_batch_iterator(
            dataset=dataset, max_sentences=4, max_positions=8, ignore_invalid_inputs=True,
            epoch=epoch, update_epoch_batch_itr=False,
        )
        for epoch in (1, 2)
    )  # fmt: skip
    assert isinstance(epochs, BlockEpochs)
    assert again is epochs
    kept = {int(i) for batch in epochs.frozen_batches for i in batch}
    assert kept == {int(i) for i in np.flatnonzero(dataset.sizes <= 8)}
    assert len([m for m in caplog.messages if "samples have invalid sizes" in m]) == 1
