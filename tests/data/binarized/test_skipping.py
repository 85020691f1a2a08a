"""``--skip-batches`` over blocks: which batches the updates have, over epochs and resumes."""

from typing import Any, Dict, List

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.epochs import BlockEpochs, Making
from metaseq_plugin.data.skips import Skips
from tests.data.binarized.test_epochs import Blocks

MAKING = Making(1, None, 2, 1, None, 1)


class Run:
    """Updates over epochs of ten blocks in batches of two, as fairseq's loop makes them; no two blocks are alike."""

    def __init__(self, skips: Dict[int, int], update_freq: int = 1, updates: int = 0) -> None:
        self.updates, self.update_freq = updates, update_freq
        self.epochs = BlockEpochs(
            Blocks(10), MAKING, lambda indices, _: indices, Skips(skips), lambda: self.updates
        )

    def make(self, number: int) -> List[Any]:
        """The blocks of the next ``number`` updates."""
        from fairseq.data.iterators import GroupedIterator

        made: List[Any] = []
        while True:
            updates = GroupedIterator(self.epochs.next_epoch_itr(), self.update_freq)
            for batches in updates:
                made.append([block for batch in batches for block in batch])
                self.updates += 1
                has_next = updates.has_next()
                if len(made) == number:
                    return made
                assert has_next == (not self.epochs.end_of_epoch())


@pytest.mark.parametrize("update_freq", [1, 2])
@pytest.mark.parametrize(
    "skips", [{}, {2: 1}, {2: 2, 4: 1}, {1: 1}, {3: 3}, {2: 4}, {3: 5}, {2: 1, 3: 1}, {2: 12}]
)
def test_the_updates_have_what_is_left(skips: Dict[int, int], update_freq: int) -> None:
    every = Run({}, update_freq).make(40)
    expected, place = [], 0
    for update in range(1, 9):
        place += skips.get(update, 0) + 1
        expected.append(every[place - 1])
    assert Run(skips, update_freq).make(8) == expected


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("skips", [{3: 2}, {3: 5}, {2: 1, 4: 3}])
def test_a_resumed_run_skips_the_same(skips: Dict[int, int], stop: int) -> None:
    whole = Run(skips).make(8)
    run = Run(skips)
    assert run.make(stop) == whole[:stop]
    state = run.epochs.state_dict()
    resumed = Run(skips, updates=stop)
    resumed.epochs.load_state_dict(state)
    assert resumed.make(8 - stop) == whole[stop:]


def test_past_the_last_epoch_is_refused() -> None:
    run = Run({2: 10})
    run.epochs.last_epoch = 2
    with pytest.raises(UserError, match="go past all that is left of epoch 2"):
        run.make(4)
