"""``wall`` in the log of a resumed run: seconds since the run began, over all its processes.

fairseq saves the clock of the log without its time, and a clock that was loaded stands at 0. The trainer's own
sum, which ``--stop-time-hours`` asks, is right. Both begin anew with ``--reset-meters``, and so with
``--finetune-from-model``: fairseq would count the hours of the model that is fine-tuned.
"""

import time
from functools import wraps
from typing import Any, Callable


def going_on(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.load_checkpoint``, which sets the clock of the log by the trainer's."""

    @wraps(load_checkpoint)
    def wrapper(
        trainer: Any,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: Any = None,
        reset_meters: bool = False,
    ) -> Any:
        from fairseq.logging import metrics

        extra_state = load_checkpoint(
            trainer, filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters
        )  # fmt: skip
        if reset_meters:
            trainer._previous_training_time = 0
        seconds = float(
            trainer._local_cumulative_training_time()
        )  # a tensor, saved by several ranks
        metrics.get_meter("default", "wall").start_time = time.perf_counter() - seconds
        return extra_state

    return wrapper
