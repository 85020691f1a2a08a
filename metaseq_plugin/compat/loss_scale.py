"""A run whose fp16 gradients overflow update after update ends in one sentence.

fairseq's loss scaler halves the scale at every overflow. At ``--min-loss-scale`` it raises an error
for which the trainer dumps its state and runs the batch again with hooks; with
``--threshold-loss-scale`` the scale stops there, and updates are skipped for ever.
"""

from functools import wraps
from typing import Any, Callable

from metaseq_plugin.compat.errors import UserError

# Halving from 2^15, where fairseq starts, to 0.0001, where it stops, takes 29.
MAX_SKIPPED_IN_A_ROW = 50

REMEDY = "Lower --lr, set --clip-norm, or train with --bf16."


def bounding_skips(check_overflow: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``DynamicLossScaler.check_overflow``, which gives up where no scale fits."""

    @wraps(check_overflow)
    def wrapper(scaler: Any, grad_norm: Any) -> None:
        skipped = vars(scaler).get("skipped_in_a_row", 0)
        scaler.skipped_in_a_row = 0
        try:
            check_overflow(scaler, grad_norm)
        except FloatingPointError:
            raise UserError(
                f"`--min-loss-scale` must be below every scale that training needs, but the scale "
                f"fell to it ({scaler.min_loss_scale:g}): {skipped + 1} updates in a row "
                f"overflowed. {REMEDY}"
            ) from None
        except OverflowError:
            scaler.skipped_in_a_row = skipped + 1
            if scaler.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"The gradients must fit fp16 at some loss scale, but "
                    f"{scaler.skipped_in_a_row} updates in a row overflowed, the last at scale "
                    f"{scaler.loss_scale:g}. {REMEDY}"
                ) from None
            raise

    return wrapper


def loss_multiple(trainer: Any) -> float:
    """What ``trainer`` multiplies the loss of the next backward pass by: 1 but with --fp16 and --amp."""
    common = trainer.cfg.common
    if common.amp:
        return float(trainer.optimizer.scaler.get_scale())
    is_fp16 = common.fp16 or common.memory_efficient_fp16
    return float(trainer.optimizer.scaler.loss_scale) if is_fp16 else 1.0
