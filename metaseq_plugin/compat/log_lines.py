"""fairseq's log lines, progress bars and trackers gain what the host measures of a run.

    train_inner | … "wps": "5120", "tokens": "524288", "tflops": "0.0312", "mfu": "0.41", "hfu": "0.41", …

They all show the numbers that ``get_training_stats`` returns, so more of them there is more of them everywhere. The
speed and the time since the last line are fairseq's own; no rank asks another, and no GPU is waited for.
"""

from functools import wraps
from typing import Any, Callable, Optional

from metaseq_plugin.compat.host import host_of, registered
from metaseq_plugin.compat.parallel_doors import host_of_rank


def metering(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, at whose end the host has written what was used."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        host = host_of_rank(cfg)
        if host is None:
            return main(cfg)
        with host.metering():
            return main(cfg)

    return wrapper


def beginning(train: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.train``, of one epoch."""

    @wraps(train)
    def wrapper(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        host = host_of(trainer.cfg)
        if host is not None:
            host.epoch_begins(epoch_itr)
        return train(cfg, trainer, task, epoch_itr)

    return wrapper


def ticking(step: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.train_step`` and ``valid_step``, behind which counters may be read."""

    @wraps(step)
    def wrapper(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(trainer, *args, **kwargs)
        host = registered()
        if host is not None:
            host.tick(trainer.get_num_updates())
        return result

    return wrapper


def adding(get_training_stats: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``fairseq_cli.train.get_training_stats``: the numbers of a line, of an interval or of an epoch."""

    @wraps(get_training_stats)
    def wrapper(stats: Any) -> Any:
        stats = get_training_stats(stats)
        host = registered()
        if host is not None:
            stats.update(host.measured(stats, tokens_seen(stats)))
        return stats

    return wrapper


def tokens_seen(stats: Any) -> Optional[int]:
    """Tokens of all updates of the run, those before it was resumed too; None where some were not counted.

    fairseq logs each update's as ``wpb``, and its default aggregator holds their sum.
    """
    from fairseq.logging import metrics

    meter = metrics.get_meter("default", "wpb")
    if meter is None or int(meter.count) != int(stats.get("num_updates", 0)):
        return None
    return int(meter.sum)


def count_none() -> None:
    """An update without tokens, as one that is skipped: the sum goes on and is still that of all updates."""
    from fairseq.logging import meters, metrics

    active = metrics._active_aggregators["default"]
    if "wpb" not in active:
        active.add_meter("wpb", meters.AverageMeter(), priority=180)  # as fairseq
    active["wpb"].count += 1


def counting_on(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.load_checkpoint``, behind which the sum of tokens goes on where the checkpoint ended.

    fairseq begins all sums anew where a checkpoint is of an epoch's end; elsewhere it saves those that it loaded, and
    counts on in others.
    """

    @wraps(load_checkpoint)
    def wrapper(
        trainer: Any,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: Any = None,
        reset_meters: bool = False,
    ) -> Any:
        extra_state = load_checkpoint(
            trainer, filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters
        )  # fmt: skip
        if extra_state is not None and not reset_meters:
            take_sum(extra_state.get("metrics", {}).get("default", []))
        return extra_state

    return wrapper


def take_sum(saved: Any) -> None:
    """Let the default meters that are logged to be those that are saved, their sum of tokens that of a checkpoint.

    Args:
        saved: (priority, name, class, state) of each of its default meters.
    """
    from fairseq.logging import meters, metrics

    active = metrics._active_aggregators["default"]
    metrics._aggregators["default"] = active
    for priority, name, _, state in saved:
        if name != "wpb":
            continue
        if name not in active:
            active.add_meter(name, meters.AverageMeter(), priority)
        active[name].load_state_dict(state)
