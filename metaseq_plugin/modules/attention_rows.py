"""Causal attention with dropout on a CPU, a block of query rows at a time; no (T, T) matrix is ever whole.

Legend: B batch, T tokens, H heads, K head dim, r rows of a block, S = the columns that these rows see.

PyTorch's fused attention on CPUs refuses dropout; what it falls back on makes the scores, the probabilities, the random
numbers and the dropped probabilities of all rows, (B, H, T, T) each, and keeps some of them for the backward pass. Here,

(1) for each block: scores (B, H, r, S) = Q Kᵀ / √K + mask; P = softmax; D = which entries stay; Y = (P ∘ D) V / (1 - p)
(2) only D, one byte an entry, and a number a row, log Σ exp(scores), are kept
(3) backward, for each block: P again, from one product; then, with dP = (dY Vᵀ) ∘ D / (1 - p),
    dV += (P ∘ D / (1 - p))ᵀ dY;  dS = P ∘ (dP - Σ dY ∘ Y);  dQ = dS K / √K;  dK += dSᵀ Q / √K

which is FlashAttention's algebra (Dao et al. 2022, arXiv:2205.14135, appendix B). Without a mask S ends with the block's last
row, so that half of the products are not taken.

D comes from PyTorch's default generator: a checkpointed layer that is computed again with the generator's state of before
drops the same entries. Each takes 16 random bits, so that p is rounded to a multiple of 2**-16, and 1 - p with it.
"""

import math
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaseq_plugin.modules.dropout import kept_entries, rounded
from metaseq_plugin.modules.row_blocks import BLOCK_ELEMENTS


def dropped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor], dropout: float
) -> Tensor:
    """softmax(QKᵀ/√K + mask), its entries dropped with probability ``dropout`` and the others scaled up, times V.

    Args:
        query, key, value: (B, H, T, K).
        mask: (B or 1, 1, T, T), added to the scores, of which each row has one that is finite; None: causality.
        dropout: in (0, 1).

    Returns: (B, H, T, K), differentiable once.
    """
    return _DroppedAttention.apply(query, key, value, mask, dropout)


class _Blocks:
    """What forward and backward share: the blocks, and each one's scores."""

    def __init__(self, query: Tensor, key: Tensor, mask: Optional[Tensor]) -> None:
        self.batch, self.heads, self.tokens, dim = query.shape
        self.scale = 1.0 / math.sqrt(dim)
        self.rows = max(1, BLOCK_ELEMENTS // (self.batch * self.heads * self.tokens))
        self.query, self.key, self.mask = flat(query), flat(key), mask

    def __iter__(self) -> Any:
        """(rows, columns that they see) of each block."""
        for first in range(0, self.tokens, self.rows):
            last = min(first + self.rows, self.tokens)
            yield slice(first, last), slice(0, self.tokens if self.mask is not None else last)

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """(B·H, r, S)."""
        count, width = rows.stop - rows.start, columns.stop
        key = self.key[:, columns].transpose(1, 2)  # (B·H, K, S)
        scores = torch.bmm(self.query[:, rows] * self.scale, key)
        if self.mask is None:
            ahead = torch.full((count, count), -math.inf, dtype=scores.dtype).triu_(1)
            scores[:, :, rows] += ahead
        else:
            by_head = scores.view(self.batch, self.heads, count, width)
            by_head += self.mask[:, :, rows, columns]
        return scores


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor], dropout: float
    ) -> Tensor:
        threshold, scale = rounded(dropout)
        blocks, values = _Blocks(query, key, mask), flat(value)
        # As the query lies, (B, T, H, K): the projection that follows saves it, and need not save a copy.
        output = torch.empty_like(query)
        log_sums = values.new_empty(*values.shape[:2], 1)
        stays = []
        for rows, columns in blocks:
            scores = blocks.scores(rows, columns)
            log_sums[:, rows] = torch.logsumexp(scores, 2, keepdim=True)
            probabilities = scores.sub_(log_sums[:, rows]).exp_()
            stays.append(kept_entries(probabilities.shape, threshold))
            probabilities.mul_(stays[-1])
            block = torch.bmm(probabilities, values[:, columns]).mul_(scale)
            output[:, :, rows] = block.unflatten(0, query.shape[:2])
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, mask, output, log_sums, *stays)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Optional[Tensor], ...]:
        query, key, value, mask, output, log_sums, *stays = ctx.saved_tensors
        inner = flat((dy * output).sum(3, keepdim=True))  # (B·H, T, 1)
        blocks, values, dy = _Blocks(query, key, mask), flat(value), flat(dy)
        dy = dy * ctx.scale
        dquery, dkey, dvalue = (
            torch.empty_like(values),
            torch.zeros_like(values),
            torch.zeros_like(values),
        )
        for (rows, columns), stay in zip(blocks, stays):
            probabilities = blocks.scores(rows, columns).sub_(log_sums[:, rows]).exp_()
            dscores = torch.bmm(dy[:, rows], values[:, columns].transpose(1, 2))
            dscores.mul_(stay).sub_(inner[:, rows]).mul_(probabilities)
            dropped = probabilities.mul_(stay).transpose(1, 2)
            dvalue[:, columns].baddbmm_(dropped, dy[:, rows])
            dquery[:, rows] = torch.bmm(dscores, blocks.key[:, columns])
            dkey[:, columns].baddbmm_(dscores.transpose(1, 2), blocks.query[:, rows])
        dquery.mul_(blocks.scale)
        dkey.mul_(blocks.scale)
        shape = query.shape
        return dquery.view(shape), dkey.view(shape), dvalue.view(shape), None, None


def flat(x: Tensor) -> Tensor:
    """(B, H, T, K) → (B·H, T, K), contiguous."""
    return x.flatten(0, 1).contiguous()
