"""The collectives around a block whose insides are cut over ranks: ``enter`` it and ``leave`` it.

B batch, T tokens, D model dim; r is a rank of tp. Each pair is its own transpose, so that the backward
pass of one is the forward pass of the other:

                     without sequence parallelism          with it (tokens are cut outside)
    enter  forward   x                (nothing)            [x_1 … x_tp]     all-gather over T
           backward  Σ_r dx_r         all-reduce           Σ_r dx_r, part r reduce-scatter over T
    leave  forward   Σ_r y_r          all-reduce           Σ_r y_r, part r  reduce-scatter over T
           backward  dy               (nothing)            [dy_1 … dy_tp]   all-gather over T

Tokens are the last dim but one. For (B, T, D) they are gathered in order; for rows (B·T/tp, D), as the
feed-forward block has them, in the order of ranks, which leave undoes.
"""

from typing import Any, Callable, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from metaseq_plugin.modules.collectives import all_gather, reduce_scatter

Collective = Callable[[Tensor], Tensor]


class Region:
    """The two doors of a cut block, for the ranks of ``group``."""

    def __init__(self, group: dist.ProcessGroup, cuts_tokens: bool) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.cuts_tokens = cuts_tokens

    def enter(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D), or (B, T/tp, D) → (B, T, D) where tokens are cut."""
        there, back = (
            (self.gathered, self.scattered) if self.cuts_tokens else (_nothing, self.summed)
        )
        result: Tensor = _Pair.apply(x, there, back)
        return result

    def leave(self, y: Tensor) -> Tensor:
        """The other way round, summing over ranks what each has."""
        there, back = (
            (self.scattered, self.gathered) if self.cuts_tokens else (self.summed, _nothing)
        )
        result: Tensor = _Pair.apply(y, there, back)
        return result

    def summed(self, x: Tensor) -> Tensor:
        """Σ over ranks, a new tensor."""
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def gathered(self, x: Tensor) -> Tensor:
        """(…, T/tp, D) of each rank → (…, T, D)."""
        *batch, tokens, dim = x.shape
        parts = x.new_empty(self.size, *x.shape)  # (tp, …, T/tp, D)
        all_gather(parts.flatten(0, 1), x.contiguous(), group=self.group)
        if not batch:
            return parts.flatten(0, 1)
        return parts.movedim(0, -3).reshape(*batch, self.size * tokens, dim)

    def scattered(self, y: Tensor) -> Tensor:
        """(…, T, D) of each rank → (…, T/tp, D), this rank's part of the sum over ranks."""
        *batch, tokens, dim = y.shape
        parts = y.reshape(*batch, self.size, tokens // self.size, dim)
        parts = parts.movedim(-3, 0).contiguous()  # (tp, …, T/tp, D)
        own = torch.empty_like(parts[0])
        reduce_scatter(own, parts.flatten(0, 1), group=self.group)
        return own


class _Pair(torch.autograd.Function):
    """``there`` for activations, and its transpose ``back`` for their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Collective, back: Collective) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def _nothing(x: Tensor) -> Tensor:
    return x.view_as(x)
