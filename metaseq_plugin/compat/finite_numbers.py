"""Numbers that are not finite end a command of ours in one sentence.

(1) Where gradients are NaN or infinite, fairseq saves a crash file, runs the batch again with hooks, and
    dumps tensors before its traceback. With fp16 its loss scaler has had its say before (``loss_scale``).
(2) ``fairseq-eval-lm`` leaves infinite scores out, and prints ``nan`` as the loss of a model.
"""

from functools import wraps
from typing import Any, Callable, Dict, List

import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.host import host_of, registered


def diverged(trainer: Any, what: str = "gradients are") -> UserError:
    """The sentence for the update that ``trainer`` is about to make, of which ``what`` is not finite."""
    clip_norm = trainer.cfg.optimization.clip_norm
    return UserError(
        f"`--lr` must let training converge, but is {trainer.get_lr():g} at update "
        f"{trainer.get_num_updates() + 1}, whose {what} NaN or infinite in "
        f"{computed_in(trainer.cfg.common)}. Lower --lr, raise --warmup-updates, or "
        f"{'lower' if clip_norm > 0 else 'set'} --clip-norm."
    )


def computed_in(common: Any) -> str:
    """The type of a run's numbers; fp16's scaler has its say about gradients, and none about the loss."""
    if common.bf16 or common.memory_efficient_bf16:
        return "bfloat16"
    is_fp16 = common.fp16 or common.memory_efficient_fp16 or common.amp
    return "float16" if is_fp16 else "float32"


def ending_briefly(check_grad_norms: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``Trainer._check_grad_norms``, which every rank calls with the norm that fairseq tests next."""

    @wraps(check_grad_norms)
    def wrapper(trainer: Any, grad_norm: Any) -> None:
        # With --amp such an update is skipped, as one with fp16 is.
        if host_of(trainer.cfg) is None or trainer.cfg.common.amp:
            check_grad_norms(trainer, grad_norm)
            return
        try:
            check_grad_norms(trainer, grad_norm)
        except FloatingPointError:
            if bool(trainer._grad_norm_buf.isfinite().all()):  # ranks that disagree: another fault
                raise
            raise diverged(trainer) from None
        if not bool(torch.isfinite(grad_norm).all()):
            raise diverged(trainer)

    return wrapper


Hypotheses = List[List[Dict[str, Any]]]


def refusing_nan(generate: Callable[..., Hypotheses]) -> Callable[..., Hypotheses]:
    """``SequenceScorer.generate``, of ``fairseq-eval-lm`` and of ``--score-reference``."""

    @wraps(generate)
    def wrapper(scorer: Any, models: Any, sample: Any, **options: Any) -> Hypotheses:
        found = generate(scorer, models, sample, **options)
        host = registered()
        if host is None or not all(map(host.owns_model, models)):
            return found
        scores = torch.cat([best["positional_scores"] for best, *_ in found])
        if not bool(scores.isfinite().all()):
            dtype = str(next(models[0].parameters()).dtype).removeprefix("torch.")
            raise UserError(
                f"The scores of a text must be finite, but in {dtype} some are NaN or infinite. "
                + (
                    "Leave --fp16 out."
                    if dtype == "float16"
                    else "Use another checkpoint: this one's weights are NaN or too large to compute with."
                )
            )
        return found

    return wrapper
