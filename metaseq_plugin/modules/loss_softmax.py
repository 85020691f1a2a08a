"""The chunked loss's softmax, its gradient and the target's log-probability, from a chunk's logits and in their place.

n tokens of a chunk, V columns of logits; P = softmax(logits).

On a GPU, 16-bit logits go through one Triton kernel (``softmax_kernel.py``); elsewhere, and in fp32, through PyTorch's
operations, which read and write them several times. Both compute in fp32.
"""

import math
from functools import lru_cache
from typing import Optional

import torch
from torch import Tensor
from torch.utils._triton import has_triton_package

from metaseq_plugin.modules.vocab_shard import VocabShard

# G's entries lie in (-1, 1); times 2**10 the smallest normal fp16 number stands for a probability
# of 6e-8 (1/V is 2e-5), and |dX| <= 2 * 2**10 * max|W| still fits in fp16 (65,504) up to |W| = 31.
FP16_SCALE = 1_024.0


def gradient_scale(dtype: torch.dtype) -> float:
    """The factor that gradients in ``dtype`` carry."""
    return FP16_SCALE if dtype == torch.float16 else 1.0


def softmax_(
    logits: Tensor, target: Tensor, shard: Optional[VocabShard], with_gradient: bool
) -> Tensor:
    """log P[target], (n, 1) fp32; ``with_gradient`` turns logits (n, V) into G = P - onehot(target), times ``gradient_scale``.

    Args:
        target: (n,) integers in [0, V of all ranks).
        shard: the columns are only those of a rank's rows; then a collective call.
    """
    scale = gradient_scale(logits.dtype)
    if _suits_kernel(logits):
        from metaseq_plugin.modules import softmax_kernel

        return softmax_kernel.softmax_(logits, target, shard, scale if with_gradient else None)

    index = target.unsqueeze(1)  # (n, 1)
    is_here = torch.ones_like(index, dtype=torch.bool)
    if shard is not None:
        index, is_here = shard.locate(index, logits.size(1))
    if logits.dtype == torch.float32:
        target_lprob = _in_fp32_(logits, index, is_here, shard, with_gradient)
    else:
        target_lprob = _in_16_bits_(logits, index, is_here, shard, with_gradient)

    if with_gradient:
        # The target's entry is p - 1, which a rounded p would spoil: expm1 takes it from log p.
        entry = (target_lprob.expm1() * scale).to(logits.dtype)
        if shard is not None:
            entry = torch.where(is_here, entry, logits.gather(1, index))
        logits.scatter_(1, index, entry)
    return target_lprob


def _suits_kernel(logits: Tensor) -> bool:
    return logits.is_cuda and logits.element_size() == 2 and _has_triton()


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return has_triton_package()


def _in_fp32_(
    logits: Tensor,
    index: Tensor,
    is_here: Tensor,
    shard: Optional[VocabShard],
    with_gradient: bool,
) -> Tensor:
    """log P[target]; ``with_gradient`` turns logits into P."""
    row_max = logits.amax(1, keepdim=True)
    target_logit = logits.gather(1, index)
    row_sum = logits.sub_(row_max).exp_().sum(1, keepdim=True)
    log_sum = row_sum.log()
    target_lprob = target_logit - row_max - log_sum
    if shard is not None:
        target_lprob, shard_lprob = shard.share_out(row_max + log_sum, target_lprob, is_here)
        row_sum.div_(shard_lprob.exp_())  # inf where this rank's share is 0, and so is its P
    if with_gradient:
        logits.div_(row_sum)
    return target_lprob


def _in_16_bits_(
    logits: Tensor,
    index: Tensor,
    is_here: Tensor,
    shard: Optional[VocabShard],
    with_gradient: bool,
) -> Tensor:
    """log P[target]; ``with_gradient`` turns logits into P times ``gradient_scale``."""
    lprobs = torch.log_softmax(logits, 1, dtype=torch.float32)  # (n, V), one fused kernel
    target_lprob = lprobs.gather(1, index)
    if shard is not None:
        # The kernel keeps its log-sum-exp to itself; the largest logit's probability tells it.
        row_max, column = logits.max(1, keepdim=True)
        log_sum_exp = row_max.float() - lprobs.gather(1, column)
        target_lprob, shard_lprob = shard.share_out(log_sum_exp, target_lprob, is_here)
        if with_gradient:
            lprobs.add_(shard_lprob)
    if with_gradient:
        if logits.dtype == torch.float16:
            lprobs.add_(math.log(FP16_SCALE))
        torch.exp(lprobs, out=logits)
    return target_lprob
