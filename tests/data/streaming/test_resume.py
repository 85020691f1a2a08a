"""A stream that stops and goes on, with whatever ranks and workers, is the stream that never stopped."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.skips import Skips
from metaseq_plugin.data.streaming.mixing import Mixing
from metaseq_plugin.data.streaming.packing import TALLY
from metaseq_plugin.data.streaming.split import Split
from metaseq_plugin.data.streaming.tokens import Reader, Workers
from tests.data.streaming.worlds import (
    FIRST_WORD,
    TOKENIZER,
    Fleet,
    Sample,
    epochs_of,
    open_split,
    samples_of,
    write_jsonl,
    write_world,
)

BOUNDARIES = 40
LAYOUTS = ((1, 4), (2, 2), (4, 1), (1, 4))  # ranks, --update-freq: 4 batches an update
NUM_WORKERS = (0, 1, 3)
WEIGHTS = Mixing(weights={"a": 1, "b": 2, "c": 1})


@pytest.fixture(scope="module")
def pools() -> Iterator[Dict[int, Workers]]:
    pools = {number: Workers(Reader(TOKENIZER, False), number) for number in NUM_WORKERS}
    yield pools
    for pool in pools.values():
        pool.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, {"a": 100, "b": 40, "c": 24})
    return folder


def run(fleet: Fleet, updates: int) -> List[List[Sample]]:
    return [fleet.update() for _ in range(updates)]


@pytest.mark.parametrize("break_mode", SampleBreakMode)
def test_resume_at_every_boundary(
    world: Path, pools: Dict[int, Workers], break_mode: SampleBreakMode
) -> None:
    split = open_split(world, break_mode, WEIGHTS)
    whole = Fleet(split, pools[0], 1, 4)
    expected: List[List[Sample]] = []
    states: List[str] = []
    epochs: List[int] = []
    while len(expected) < BOUNDARIES + 2:
        expected.append(whole.update())
        states.append(whole.state())
        epochs.append(whole.ranks[0].epoch)
    assert epochs[BOUNDARIES - 1] >= 2
    seen = [json.loads(state)["streaming"] for state in states]
    for done in range(1, BOUNDARIES + 1):
        ranks, update_freq = LAYOUTS[done % len(LAYOUTS)]
        workers = pools[NUM_WORKERS[done % len(NUM_WORKERS)]]
        resumed = Fleet(split, workers, ranks, update_freq, states[done - 1], updates=done)
        for number in range(done, len(expected)):
            assert resumed.update() == expected[number], (done, number)
            assert json.loads(resumed.state())["streaming"] == seen[number], (done, number)


@pytest.mark.parametrize(("drops_remainder", "curriculum"), [(True, 0), (False, 1), (True, 2)])
def test_resume_with_options_of_the_iterator(
    world: Path, pools: Dict[int, Workers], drops_remainder: bool, curriculum: int
) -> None:
    split = open_split(world, SampleBreakMode.eos, WEIGHTS)
    options: Dict[str, Any] = {"drops_remainder": drops_remainder, "curriculum": curriculum}
    whole = Fleet(split, pools[0], 1, 7, **options)
    expected, states, epochs = [], [], []
    while whole.ranks[0].epoch < 3:
        expected.append(whole.update())
        states.append(whole.state())
        epochs.append(whole.ranks[0].epoch)
    full = [len(update) == 14 for update in expected[:-1]]
    assert all(full) == drops_remainder  # an epoch is no whole number of updates
    for done in range(1, len(expected)):
        resumed = Fleet(split, pools[0], 1, 7, states[done - 1], updates=done, **options)
        for number in range(done, len(expected)):
            assert resumed.update() == expected[number], (done, number)
            assert resumed.state() == states[number], (done, number)


def test_the_length_of_an_epoch_is_never_less_than_went_by(
    world: Path, pools: Dict[int, Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(world)
    monkeypatch.setattr(split, "expected_blocks", lambda: 20)
    epoch = epochs_of(split, pools[0]).next_epoch_itr().grouped(2, False)
    lengths = [(epoch.n, len(epoch)) for _ in epoch]
    last = lengths[-1][0]
    assert last > 5
    assert lengths == [(n, max(n, 5)) for n in range(1, last + 1)]
    assert len(epoch) == last


@pytest.mark.parametrize("break_mode", SampleBreakMode)
def test_a_run_that_changes_after_every_update(
    world: Path, pools: Dict[int, Workers], break_mode: SampleBreakMode
) -> None:
    split = open_split(world, break_mode, WEIGHTS)
    expected = run(Fleet(split, pools[0], 1, 4), BOUNDARIES)
    state, found = None, []
    for done in range(BOUNDARIES):
        ranks, update_freq = LAYOUTS[done % len(LAYOUTS)]
        workers = pools[NUM_WORKERS[done % len(NUM_WORKERS)]]
        fleet = Fleet(split, workers, ranks, update_freq, state, updates=done)
        found.append(fleet.update())
        state = fleet.state()
    assert found == expected


def epoch_of(split: Split, workers: Workers, epoch: int) -> List[Sample]:
    fleet = Fleet(split, workers, 1, 4)
    for rank in fleet.ranks:
        rank.epoch = epoch
    fleet.begin()
    samples = []
    while fleet.epochs[0].has_next():
        samples += fleet.update()
    return samples


@pytest.mark.parametrize("break_mode", SampleBreakMode)
def test_an_epoch_has_every_token_once(
    tmp_path: Path, pools: Dict[int, Workers], break_mode: SampleBreakMode
) -> None:
    documents = write_world(tmp_path, {"a": 30, "b": 20}, longest=50)
    split = open_split(tmp_path, break_mode)
    epochs = [epoch_of(split, pools[0], number) for number in (1, 2)]
    for samples in epochs:
        assert len({sample[0] for sample in samples}) == len(samples)
        targets = Counter(token for _, _, target in samples for token in target)
        assert targets == Counter(
            [word + FIRST_WORD for document in documents for word in document] + [2] * 50
        )
    assert {sample[0] for sample in epochs[0]}.isdisjoint(sample[0] for sample in epochs[1])
    assert epochs[0][0][2] != epochs[1][0][2]  # another order


def test_samples_do_not_come_in_the_order_of_blocks(world: Path, pools: Dict[int, Workers]) -> None:
    shuffled = epoch_of(open_split(world, window=8), pools[0], 1)
    plain = epoch_of(open_split(world, window=1), pools[0], 1)
    assert sorted(shuffled) == sorted(plain) == plain != shuffled
    numbers = [sample[0] for sample in shuffled]
    for first in range(0, len(numbers), 8):
        assert sorted(numbers[first : first + 8]) == [
            sample[0] for sample in plain[first : first + 8]
        ]


def test_the_state_is_small_whatever_the_corpus(tmp_path: Path, pools: Dict[int, Workers]) -> None:
    sizes = []
    for name, size in (("small", 50), ("large", 3_000)):
        write_world(tmp_path / name, {"a": size}, longest=5)
        fleet = Fleet(open_split(tmp_path / name), pools[0], 1, 1)
        run(fleet, 10)
        sizes.append(len(fleet.state()))
    assert max(sizes) < 2_000
    assert abs(sizes[0] - sizes[1]) < 20


def test_resuming_reads_one_window_and_no_more(world: Path, pools: Dict[int, Workers]) -> None:
    split = open_split(world)
    fleet = Fleet(split, pools[0], 1, 4)
    run(fleet, 15)
    start = json.loads(fleet.state())["streaming"]["shuffle"]["start"]
    assert start["document"] > 50

    class Counting(Workers):
        first = -1

        def tokenised(self, runs, min_ahead_bytes):  # type: ignore[no-untyped-def]
            for item in super().tokenised(runs, min_ahead_bytes):
                self.first = item[0].first if self.first < 0 else self.first
                yield item

    workers = Counting(Reader(TOKENIZER, False), 0)
    run(Fleet(split, workers, 1, 4, fleet.state(), updates=15), 1)
    assert workers.first == start["document"]


def test_other_data_or_settings_are_refused(tmp_path: Path, pools: Dict[int, Workers]) -> None:
    write_world(tmp_path, {"a": 30})
    fleet = Fleet(open_split(tmp_path), pools[0], 1, 1)
    fleet.update()
    state = fleet.state()
    for split, named in (
        (open_split(tmp_path, seed=2), "--seed"),
        (open_split(tmp_path, block_size=8), "--tokens-per-sample"),
        (open_split(tmp_path, SampleBreakMode.eos), "--sample-break-mode"),
        (open_split(tmp_path, window=4), "--shuffle-window"),
    ):
        with pytest.raises(UserError, match=f"begun with, but {named} differ"):
            Fleet(split, pools[0], 1, 1, state)
    write_jsonl(tmp_path / "train" / "00" / "a.jsonl", ["1 2 3"])
    with pytest.raises(UserError, match="the files of `DATA`"):
        Fleet(open_split(tmp_path), pools[0], 1, 1, state)
    with pytest.raises(UserError, match="another task"):
        fleet.ranks[0].load_state_dict({"epoch": 1, "iterations_in_epoch": 3})
    fleet.ranks[0].load_state_dict({"epoch": 3, "iterations_in_epoch": 0})
    assert fleet.ranks[0].next_epoch_idx == 3


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_was_seen_of_each_corpus_is_saved(
    world: Path, pools: Dict[int, Workers], ranks: int
) -> None:
    split = open_split(world, mixing=WEIGHTS)
    fleet = Fleet(split, pools[0], ranks, 1)
    tokens = samples = 0
    state: Dict[str, Any] = {}
    seen: Dict[str, Dict[str, int]] = {}
    while fleet.epochs[0].has_next():
        update = fleet.update()
        samples += len(update)
        tokens += sum(len(target) for _, _, target in update)
        state = json.loads(fleet.state())["streaming"]
        seen = state["seen"] if fleet.epochs[0].has_next() else state["seen_before"]
        assert sum(corpus["tokens"] for corpus in seen.values()) == tokens
    assert state["samples_before"] == samples
    assert [corpus["documents"] for corpus in seen.values()] == split.drawn.tolist() == [41, 82, 41]
    assert set(seen["a"]) == set(TALLY)


SKIPS = {3: 2, 6: 1}  # before update 3 go past two updates' data, before update 6 past one


@pytest.mark.parametrize("restart", range(9))
def test_skipped_batches_survive_a_restart(
    world: Path, pools: Dict[int, Workers], restart: int
) -> None:
    split = open_split(world)
    plain = run(Fleet(split, pools[0], 1, 4), 12)
    expected = [plain[0], plain[1], plain[4], plain[5], plain[6], plain[8], plain[9], plain[10]]
    fleet = Fleet(split, pools[0], 1, 4, skips=SKIPS)
    found = run(fleet, min(restart, 8))
    again = Fleet(split, pools[0], 2, 2, fleet.state(), SKIPS, updates=fleet.updates)
    assert found + run(again, 8 - len(found)) == expected


def test_skipping_goes_on_in_the_next_epoch(world: Path, pools: Dict[int, Workers]) -> None:
    split = open_split(world)
    plain_fleet = Fleet(split, pools[0], 1, 4)
    plain = run(plain_fleet, 60)
    first_epoch = sum(update[0][0] >> 40 == 1 for update in plain)
    skips = {first_epoch: 5}  # one of the first epoch, four of the second
    fleet = Fleet(split, pools[0], 1, 4, skips=skips)
    run(fleet, first_epoch - 1)
    assert not fleet.epochs[0].has_next()
    again = Fleet(split, pools[0], 1, 4, fleet.state(), skips, first_epoch - 1)
    assert fleet.update() == again.update() == plain[first_epoch + 4]


def test_the_order_of_an_epoch_is_kept_when_the_curriculum_changes(
    world: Path, pools: Dict[int, Workers]
) -> None:
    """fairseq asks for the shuffle that --curriculum says now, of the epoch that was begun with another."""
    split = open_split(world)
    whole = list(epochs_of(split, pools[0]).next_epoch_itr(shuffle=False))
    state = epochs_of(split, pools[0])
    rest = state.next_epoch_itr(shuffle=False)
    found = [next(rest) for _ in range(5)]
    for _ in range(2):
        resumed = epochs_of(split, pools[0])
        resumed.load_state_dict(state.state_dict())
        rest = resumed.next_epoch_itr(shuffle=True)
        found += [next(rest) for _ in range(5)]
        state = resumed
    found += list(rest)
    assert [samples_of(batch) for batch in found] == [samples_of(batch) for batch in whole]
    resumed = epochs_of(split, pools[0])
    resumed.load_state_dict(state.state_dict())
    for epochs in (state, resumed):  # the next epoch is as fairseq asks for it
        epochs.next_epoch_itr(shuffle=True)
        assert (epochs.epoch, epochs.shuffle) == (2, True)


def test_skipping_may_take_whole_epochs(world: Path, pools: Dict[int, Workers]) -> None:
    """fairseq cannot train an epoch without an update, so the next one begins in its place."""
    split = open_split(world)
    plain_fleet = Fleet(split, pools[0], 1, 4)
    plain = run(plain_fleet, 80)
    an_epoch = sum(update[0][0] >> 40 == 1 for update in plain)
    for done in (0, 5):  # all of the epoch, and what is left of it
        skips = {done + 1: 2 * an_epoch}
        fleet = Fleet(split, pools[0], 1, 4)
        run(fleet, done)
        again = Fleet(split, pools[0], 2, 2, fleet.state(), skips, done)
        assert again.ranks[0].epoch == 3
        assert run(again, 3) == plain[2 * an_epoch + done : 2 * an_epoch + done + 3]


def test_a_rank_without_samples_gets_a_batch_without_targets(
    world: Path, pools: Dict[int, Workers]
) -> None:
    """fairseq counts the tokens of an update by its last batch: none if that is none."""
    split = open_split(world)
    for ranks, update_freq in ((2, 4), (3, 4), (4, 4), (5, 2)):
        fleet = Fleet(split, pools[0], ranks, update_freq)
        uneven = 0
        for epochs in zip(*fleet.epochs):
            for batches in epochs:
                assert all(batches)
                counts = [len(samples_of(batch)) for batch in batches]
                uneven += any(counts) and not all(counts)
        assert uneven or (ranks, update_freq) == (2, 4), ranks


@pytest.mark.parametrize(("batch_size", "update_freq"), [(2, 1), (2, 4), (3, 2)])
def test_a_remainder_is_dropped_when_asked_for(
    world: Path, pools: Dict[int, Workers], batch_size: int, update_freq: int
) -> None:
    """As in fairseq: every update has --batch-size blocks of each rank in each of its batches."""
    epochs = epochs_of(open_split(world), pools[0], batch_size=batch_size)
    sizes = [
        [batch["nsentences"] for batch in batches]
        for batches in epochs.next_epoch_itr().grouped(update_freq, True)
    ]
    whole = epochs_of(open_split(world), pools[0], batch_size=batch_size).next_epoch_itr()
    blocks = sum(batch["nsentences"] for batch in whole)
    an_update = batch_size * update_freq
    assert sizes == [[batch_size] * update_freq] * (blocks // an_update)
    assert epochs.state_dict()["epoch"] == 2


def test_skipping_all_that_is_left_of_a_run_is_refused(
    world: Path, pools: Dict[int, Workers]
) -> None:
    epochs = epochs_of(open_split(world), pools[0], skips=Skips({1: 10_000}), max_epoch=2)
    with pytest.raises(UserError, match=r"`--skip-batches` must leave an update .* last epoch, 2"):
        epochs.next_epoch_itr().grouped(4, False)


def test_an_epoch_without_an_update_is_refused(world: Path, pools: Dict[int, Workers]) -> None:
    epochs = epochs_of(open_split(world), pools[0])
    with pytest.raises(UserError, match="`--skip-remainder-batch` must leave an update"):
        epochs.next_epoch_itr().grouped(10_000, True)


def test_an_update_that_overflowed_is_not_skipped_twice(
    world: Path, pools: Dict[int, Workers]
) -> None:
    """fp16 training drops an update without counting it; its number comes again with other data."""
    split = open_split(world)
    plain = run(Fleet(split, pools[0], 1, 4), 8)
    fleet = Fleet(split, pools[0], 1, 4, skips={2: 1})
    assert fleet.update() == plain[0]
    assert fleet.update() == plain[2]
    fleet.updates -= 1  # it overflowed
    again = Fleet(split, pools[0], 1, 4, fleet.state(), {2: 1}, fleet.updates)
    assert fleet.update() == plain[3]
    assert again.update() == plain[3]
