"""How long a run has still to go, at the speed of its last log line.

    seconds = updates that are left · tokens an update / (tokens/s)

The first end that comes counts: --max-update, --max-epoch, --stop-time-hours. What validating and saving will take is in
it as far as it was in the last interval.
"""

from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence


class Ends(NamedTuple):
    """What ends a run; 0: it does not.

    Attributes:
        update_freq: of each epoch; the last one holds for all that follow.
    """

    max_update: int
    max_epoch: int
    stop_time_hours: float
    update_freq: Sequence[int]


def ends_of(cfg: Any) -> Ends:
    """As plain numbers: options are slow to ask for."""
    options = cfg.optimization
    return Ends(
        int(options.max_update or 0), int(options.max_epoch or 0), float(options.stop_time_hours or 0),
        list(options.update_freq),
    )  # fmt: skip


def seconds_left(ends: Ends, epoch_itr: Any, stats: Mapping[str, Any]) -> Optional[float]:
    """Until the run ends by its options; None where they name no end.

    Args:
        epoch_itr: of the epoch that is trained on.
        stats: of a log line: ``wps`` above 0, ``wpb``, ``num_updates`` and ``wall``.
    """
    seconds_an_update = float(stats["wpb"]) / float(stats["wps"])
    left = [updates * seconds_an_update for updates in updates_left(ends, epoch_itr, stats)]
    if ends.stop_time_hours > 0:
        left.append(ends.stop_time_hours * 3600 - float(stats["wall"]))
    return max(0.0, min(left)) if left else None


def updates_left(ends: Ends, epoch_itr: Any, stats: Mapping[str, Any]) -> Iterator[float]:
    """Of each option that counts them."""
    if ends.max_update > 0:
        yield ends.max_update - float(stats["num_updates"])
    if ends.max_epoch > 0 and epoch_itr is not None:
        freq, length = ends.update_freq, len(epoch_itr)
        batches = length - epoch_itr.iterations_in_epoch
        yield batches / freq[min(epoch_itr.epoch, len(freq)) - 1] + sum(
            length / freq[min(epoch, len(freq)) - 1]
            for epoch in range(epoch_itr.epoch + 1, ends.max_epoch + 1)
        )
