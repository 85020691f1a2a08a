"""How long a run has still to go, at the speed of its last log line.

    seconds = updates that are left · tokens an update / (tokens/s)

The first end that comes counts: --max-update, --max-epoch, --stop-time-hours. What validating and saving will take is in
it as far as it was in the last interval.
"""

from typing import Any, Iterator, Mapping, Optional


def seconds_left(cfg: Any, epoch_itr: Any, stats: Mapping[str, Any]) -> Optional[float]:
    """Until the run ends by its options; None where they name no end.

    Args:
        epoch_itr: of the epoch that is trained on.
        stats: of a log line: ``wps`` above 0, ``wpb``, ``num_updates`` and ``wall``.
    """
    seconds_an_update = float(stats["wpb"]) / float(stats["wps"])
    ends = [updates * seconds_an_update for updates in updates_left(cfg, epoch_itr, stats)]
    hours = cfg.optimization.stop_time_hours
    if hours > 0:
        ends.append(hours * 3600 - float(stats["wall"]))
    return max(0.0, min(ends)) if ends else None


def updates_left(cfg: Any, epoch_itr: Any, stats: Mapping[str, Any]) -> Iterator[float]:
    """Of each option that counts them."""
    optimization = cfg.optimization
    if optimization.max_update > 0:
        yield optimization.max_update - float(stats["num_updates"])
    if optimization.max_epoch > 0 and epoch_itr is not None:
        freq = optimization.update_freq
        batches = len(epoch_itr) - epoch_itr.iterations_in_epoch
        yield batches / freq[min(epoch_itr.epoch, len(freq)) - 1] + sum(
            len(epoch_itr) / freq[min(epoch, len(freq)) - 1]
            for epoch in range(epoch_itr.epoch + 1, optimization.max_epoch + 1)
        )
