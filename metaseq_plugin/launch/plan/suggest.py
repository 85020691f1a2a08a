"""``--suggest``: the layouts of the same ranks that fit, the fastest first.

What is tried: every number of model parts that divides the ranks of a node, the heads, the feed-forward dim and the
vocabulary; ZeRO-3, ZeRO-2 and plain data parallelism; activations kept, recomputed selectively or as a whole; tokens cut between the parts or
not; and, of each, the largest --batch-size that fits and divides what a rank takes of the batch.

The time of an update is what its hardware FLOPs take at the rate, and on top of that the exchange that cannot hide
(``communication.py``). The rate is one for all: that smaller products are slower is not in it, and a published rate
holds some exchange already, so that the times are for comparing layouts and not for a calendar.
"""

from itertools import product
from typing import Iterator, NamedTuple, Optional

from metaseq_plugin.launch.batch import Batch
from metaseq_plugin.launch.plan.communication import exchange
from metaseq_plugin.launch.plan.memory_settings import RECOMPUTES, MemorySettings
from metaseq_plugin.launch.plan.planned import Planned
from metaseq_plugin.launch.plan.time import time_of
from metaseq_plugin.launch.plan.utilisation import Rate
from metaseq_plugin.layout.layout import divisors

LARGEST_BATCH_SIZE = 64
RECOMPUTATIONS = (None, *RECOMPUTES)


class Suggestion(NamedTuple):
    """A layout that fits: seconds of an update, of which ``exposed_seconds`` are exchange; bytes at the peak.

    ``exchange_seconds`` are those of all of it, hidden or not.
    """

    planned: Planned
    update_seconds: float
    exposed_seconds: float
    exchange_seconds: float
    peak: int

    @property
    def order(self) -> tuple[float, float, bool, int]:
        """Fastest first; of equal ones, the one that sends less, that keeps all, then that needs less memory."""
        recomputes = self.planned.settings.checkpoint_activations
        return round(self.update_seconds, 6), self.exchange_seconds, recomputes, self.peak


class Suggestions(NamedTuple):
    """What fits, fastest first, how many were tried, and the tightest of those that do not fit."""

    fitting: tuple[Suggestion, ...]
    tried: int
    smallest_peak: int


def suggest(planned: Planned, rate: Rate) -> Suggestions:
    """Try all of them; the device must be known."""
    assert planned.device is not None
    fitting, tried, smallest = [], 0, 0
    for candidate in candidates(planned):
        tried += 1
        found, peak = largest_batch(candidate)
        smallest = min(smallest or peak, peak)
        if found is not None:
            fitting.append(timed(found, peak, rate))
    return Suggestions(tuple(sorted(fitting, key=lambda each: each.order)), tried, smallest)


def candidates(planned: Planned) -> Iterator[Planned]:
    """Every layout, still without a batch size."""
    size, settings = planned.size, planned.settings
    on_node = min(planned.ranks_per_node, planned.num_ranks)
    cut = (on_node, planned.num_ranks, size.heads, size.ffn_embed_dim, settings.vocab_size)
    sequences = planned.batch.batch_tokens // settings.tokens_per_sample
    for parts, zero, recomputes, cuts in product(
        divisors(*cut), (3, 2, 0), RECOMPUTATIONS, (False, True)
    ):
        data_parallel = planned.num_ranks // parts
        unsuited = sequences % data_parallel or (cuts and parts == 1)
        if unsuited or (zero and data_parallel == 1) or refused(settings, parts, zero, recomputes):
            continue
        yield planned._replace(
            model_parallel_size=parts,
            settings=settings._replace(
                fully_sharded=zero > 0,
                reshard_after_forward=zero == 3,
                checkpoint_activations=recomputes is not None,
                checkpoint_layers=None,
                recompute=recomputes or MemorySettings().recompute,
                sequence_parallel=cuts,
            ),
        )


def refused(settings: MemorySettings, parts: int, zero: int, recomputes: Optional[str]) -> bool:
    """Whether no run can have the layout with what else was asked for."""
    without_masters = settings.precision.startswith("memory_efficient")
    return (
        (settings.cpu_offload and zero == 0)
        or (settings.offload_activations and recomputes != "whole")
        or (without_masters and (zero > 0 or parts > 1))
        or (not settings.chunked_loss and parts > 1)
    )


def largest_batch(candidate: Planned) -> tuple[Optional[Planned], int]:
    """The candidate with the largest batch size that fits, or None; and its peak, or that of one sequence."""
    assert candidate.device is not None
    settings = candidate.settings
    unit = settings.tokens_per_sample * candidate.data_parallel_size
    sequences = candidate.batch.batch_tokens // unit
    peak = 0
    sizes = [n for n in range(min(sequences, LARGEST_BATCH_SIZE), 0, -1) if sequences % n == 0]
    for batch_size in sizes:
        batch = Batch(batch_size, sequences // batch_size, candidate.batch.batch_tokens)
        sized = candidate._replace(
            batch=batch,
            settings=settings._replace(batch_size=batch_size, update_freq=batch.update_freq),
        )
        peak = sized.memory().peak
        if peak <= candidate.device.memory:
            return sized, peak
    return None, peak


def timed(found: Planned, peak: int, rate: Rate) -> Suggestion:
    """With the seconds of an update."""
    computing = time_of(found, rate).update_seconds
    sent = exchange(found)
    exposed = sent.exposed_seconds(computing)
    return Suggestion(found, computing + exposed, exposed, sent.seconds, peak)
