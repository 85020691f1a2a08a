"""A run that has reached its end already, started again, says so and trains nothing.

fairseq asks whether a run has ended only behind an update, so it makes one more, validates, and saves over the
last and the best checkpoint. For models of the host's the question is asked once a checkpoint is loaded.
"""

import logging
from functools import wraps
from typing import Any, Callable, Optional

from metaseq_plugin.compat.one_model import largest

logger = logging.getLogger(__name__)


class NothingToDo(Exception):
    """The run that was loaded has ended; the message says by which option."""


def why_ended(cfg: Any, trainer: Any, epoch_itr: Any) -> Optional[str]:
    """By which option the run has ended, and what to set; None where it goes on. Collective.

    Args:
        cfg: fairseq's options of optimization.
    """
    updates, lr = trainer.get_num_updates(), trainer.get_lr()
    if cfg.max_update and updates >= cfg.max_update:
        return (
            f"the run has made its {updates} updates (--max-update {cfg.max_update}). "
            "Set a larger one to go on."
        )
    if cfg.max_epoch and epoch_itr.next_epoch_idx > cfg.max_epoch:
        return (
            f"the run has made its {epoch_itr.next_epoch_idx - 1} epochs (--max-epoch {cfg.max_epoch}). "
            "Set a larger one to go on."
        )
    if cfg.stop_time_hours > 0:
        hours = largest(float(trainer.cumulative_training_time()), trainer.device) / 3600
        if hours > cfg.stop_time_hours:
            return (
                f"the run has trained for {hours:.2f} hours (--stop-time-hours {cfg.stop_time_hours}). "
                "Set more to go on."
            )
    if lr <= cfg.stop_min_lr:
        return (
            f"the run's learning rate has come to {lr:g} (--stop-min-lr {cfg.stop_min_lr:g}). "
            "Set a smaller one to go on."
        )
    return None


def end_if_finished(trainer: Any, epoch_itr: Any) -> None:
    """Raise NothingToDo for a run of ``trainer``, restored from a checkpoint, that has ended. Collective."""
    reason = why_ended(trainer.cfg.optimization, trainer, epoch_itr)
    if reason is not None:
        raise NothingToDo(reason)


def ending_well(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, which returns where there is nothing to do."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        try:
            return main(cfg)
        except NothingToDo as end:
            logger.info(f"nothing to do: {end}")

    return wrapper
