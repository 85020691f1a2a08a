"""How long a run has still to go: the first end that comes."""

from typing import Optional, Sequence

import pytest

from metaseq_plugin.ledger.remaining import Ends, seconds_left

# 100 tokens an update at 50 tokens/s: 2 s an update.
STATS = {"wps": 50.0, "wpb": 100.0, "num_updates": 30, "wall": 90.0}


class Epochs:
    """Epoch 2, of 40 batches, of which 10 are done."""

    epoch, iterations_in_epoch = 2, 10

    def __len__(self) -> int:
        return 40


def options(
    max_update: int = 0, max_epoch: int = 0, hours: float = 0.0, freq: Sequence[int] = (1,)
) -> Ends:
    return Ends(max_update, max_epoch, hours, freq)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (options(), None),
        (options(max_update=100), 140),
        (options(max_epoch=2), 60),
        (options(max_epoch=3), 140),
        (options(max_epoch=3, freq=(1, 2, 4)), (15 + 10) * 2),
        (options(max_epoch=4, freq=(1, 2)), (15 + 20 + 20) * 2),
        (options(hours=0.05), 90),
        (options(max_update=100, max_epoch=2, hours=0.05), 60),
        (options(max_update=30), 0),
        (options(max_update=20), 0),
    ],
)
def test_the_first_end_counts(asked: Ends, seconds: Optional[float]) -> None:
    assert seconds_left(asked, Epochs(), STATS) == seconds
