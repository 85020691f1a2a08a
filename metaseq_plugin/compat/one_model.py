"""Ranks that compute one model together go the same way, where fairseq lets each decide by itself.

(1) A rank that runs out of memory skips its batch and goes on to the next collective, while the others
    wait for it inside the model: they hang, or take each other's messages. It raises, so that the run ends.
(2) ``--stop-time-hours`` asks a clock that only the data-parallel ranks agree on. The parts of a model
    take the latest, so that none stops while another starts the next update.
"""

from functools import wraps
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist


def is_computed_together(distributed: Any, model_parallel_size: int) -> bool:
    """Whether a forward pass needs other ranks."""
    is_cut = model_parallel_size > 1 or distributed.ddp_backend == "fully_sharded"
    return is_cut and distributed.distributed_world_size > 1


def largest(value: float, device: torch.device, group: Optional[dist.ProcessGroup] = None) -> float:
    """The largest ``value`` of any rank of ``group``, by default of all; a collective call."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    return found.item()


def raising_oom(step: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.train_step`` or ``valid_step``, which goes on alone where it computes alone."""

    @wraps(step)
    def wrapper(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
        cfg = trainer.cfg
        together = is_computed_together(cfg.distributed_training, cfg.common.model_parallel_size)
        return step(trainer, samples, raise_oom or together)

    return wrapper


def of_all_parts(cumulative_training_time: Callable[[Any], float]) -> Callable[[Any], float]:
    """``Trainer.cumulative_training_time``; a collective call where a decision hangs on it."""

    @wraps(cumulative_training_time)
    def wrapper(trainer: Any) -> float:
        seconds = cumulative_training_time(trainer)
        cfg = trainer.cfg
        if cfg.common.model_parallel_size == 1 or cfg.optimization.stop_time_hours <= 0:
            return seconds
        from fairseq.distributed import utils

        return largest(seconds, trainer.device, utils.get_model_parallel_group())

    return wrapper


def go_together(trainer: Any) -> None:
    trained = trainer.Trainer
    trained.train_step = raising_oom(trained.train_step)
    trained.valid_step = raising_oom(trained.valid_step)
    trained.cumulative_training_time = of_all_parts(trained.cumulative_training_time)
