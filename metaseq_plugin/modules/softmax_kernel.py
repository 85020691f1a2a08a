# mypy: disallow-untyped-defs=False
"""The loss's softmax as a Triton kernel: 16-bit logits are read from memory once and become their gradient in place.

n tokens, V columns (V/tp on a rank of a vocabulary that is cut).

A row of logits (50,272 × 2 bytes) stays in a GPU's second-level cache, so that of the two passes over it

(1) the largest logit m and Σ exp(logit - m), both at once (online softmax: Milakov and Gimelshein 2018,
    arXiv:1805.02867, algorithm 3), and the target's logit
(2) G = P - onehot(target), written where the logits were

only the first reads memory. Everything is computed in fp32, in registers; no fp32 copy of the logits is ever in memory. With
a cut vocabulary the two passes are two kernels, between which the ranks exchange what ``vocab_shard.py`` says.

Only this file imports triton: PyTorch's CUDA builds bring it, its CPU build does not. ``loss_softmax.py`` chooses.
"""

from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaseq_plugin.modules.vocab_shard import VocabShard

# Columns of a row that a program has in registers at a time, and the warps that hold them: two loads of 16 bytes a thread.
BLOCK, WARPS = 4_096, 8
# Below every fp32 logit but -inf, which may stand in a row: -inf itself as the first maximum would make it NaN.
LOWEST = tl.constexpr(-3.4e38)


def softmax_(
    logits: Tensor, target: Tensor, shard: Optional[VocabShard], scale: Optional[float]
) -> Tensor:
    """log P[target], (n, 1) fp32; with a ``scale``, logits (n, V) become G times it.

    Args:
        logits: rows that are contiguous.
        target: (n,) integers in [0, V of all ranks).
        shard: as in ``chunked_loss.py``; then a collective call.
    """
    assert logits.stride(1) == 1, f"a row must be contiguous, but strides are {logits.stride()}"
    target_lprob = torch.empty(logits.size(0), 1, dtype=torch.float32, device=logits.device)
    if logits.size(0) == 0:
        return target_lprob
    with torch.cuda.device_of(logits):  # a kernel runs on the current device
        return _launch(logits, target, shard, scale, target_lprob)


def _launch(
    logits: Tensor,
    target: Tensor,
    shard: Optional[VocabShard],
    scale: Optional[float],
    target_lprob: Tensor,
) -> Tensor:
    num_rows, num_columns = logits.shape
    sizes: dict[str, Any] = {"BLOCK": BLOCK, "num_warps": WARPS}
    row = (logits, logits.stride(0), num_columns)
    if shard is None:
        _whole_rows[(num_rows,)](
            *row, target, target_lprob, scale or 0.0, WITH_GRADIENT=scale is not None, **sizes
        )
        return target_lprob

    index, is_here = shard.locate(target.unsqueeze(1), num_columns)
    row_max, log_sum = torch.empty_like(target_lprob), torch.empty_like(target_lprob)
    _statistics[(num_rows,)](*row, index, target_lprob, row_max, log_sum, **sizes)
    target_lprob, shard_lprob = shard.share_out(row_max + log_sum, target_lprob, is_here)
    if scale is not None:
        log_sum.sub_(shard_lprob)  # inf where this rank's share is 0, and so is its P
        index = torch.where(is_here, index, -1)
        _gradient[(num_rows,)](*row, index, target_lprob, row_max, log_sum, scale, **sizes)
    return target_lprob


@triton.jit
def _row_statistics(row, num_columns, BLOCK: tl.constexpr):
    """The largest logit m of a row, and Σ exp(logit - m)."""
    row_max = LOWEST
    row_sum = 0.0
    for start in range(0, num_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(row + column, mask=column < num_columns, other=-float("inf")).to(tl.float32)
        new_max = tl.maximum(row_max, tl.max(x, 0))
        row_sum = row_sum * tl.exp(row_max - new_max) + tl.sum(tl.exp(x - new_max), 0)
        row_max = new_max
    return row_max, row_sum


@triton.jit
def _write_gradient(
    row,
    num_columns,
    target,
    target_lprob,
    row_max,
    log_sum,
    scale,
    BLOCK: tl.constexpr,
):
    """exp(logit - m - log_sum) · scale in place of a row's logits; (p - 1) · scale at its target, if that is a column."""
    # A rounded p would spoil p - 1 where p is near 1. There it follows from log p by its series, whose next term is
    # below 1e-7 of it.
    series = target_lprob * (1.0 + target_lprob * (0.5 + target_lprob * (1.0 / 6.0)))
    entry = tl.where(target_lprob > -0.01, series, tl.exp(target_lprob) - 1.0)
    for start in range(0, num_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(row + column, mask=column < num_columns, other=0.0).to(tl.float32)
        gradient = tl.where(column == target, entry, tl.exp(x - row_max - log_sum)) * scale
        tl.store(row + column, gradient.to(row.dtype.element_ty), mask=column < num_columns)


@triton.jit
def _whole_rows(
    logits,
    stride,
    num_columns,
    target,
    target_lprob,
    scale,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: both passes, where all columns are here."""
    number = tl.program_id(0).to(tl.int64)  # n·V may pass 2**31
    row = logits + number * stride
    index = tl.load(target + number)
    is_column = (index >= 0) & (index < num_columns)  # a target that is none makes the loss NaN
    target_logit = tl.load(row + index, mask=is_column, other=float("nan")).to(tl.float32)
    row_max, row_sum = _row_statistics(row, num_columns, BLOCK)
    log_sum = tl.log(row_sum)
    lprob = target_logit - row_max - log_sum
    tl.store(target_lprob + number, lprob)
    if WITH_GRADIENT:
        _write_gradient(row, num_columns, index, lprob, row_max, log_sum, scale, BLOCK)


@triton.jit
def _statistics(
    logits,
    stride,
    num_columns,
    target,
    target_lprob,
    row_max,
    log_sum,
    BLOCK: tl.constexpr,
):
    """One row: the first pass over the columns that are here, of which ``target`` is one."""
    number = tl.program_id(0).to(tl.int64)
    row = logits + number * stride
    target_logit = tl.load(row + tl.load(target + number)).to(tl.float32)
    maximum, row_sum = _row_statistics(row, num_columns, BLOCK)
    tl.store(target_lprob + number, target_logit - maximum - tl.log(row_sum))
    tl.store(row_max + number, maximum)
    tl.store(log_sum + number, tl.log(row_sum))


@triton.jit
def _gradient(
    logits,
    stride,
    num_columns,
    target,
    target_lprob,
    row_max,
    log_sum,
    scale,
    BLOCK: tl.constexpr,
):
    """One row: the second pass; a ``target`` of -1 is no column."""
    number = tl.program_id(0).to(tl.int64)
    _write_gradient(
        logits + number * stride,
        num_columns,
        tl.load(target + number),
        tl.load(target_lprob + number),
        tl.load(row_max + number),
        tl.load(log_sum + number),
        scale,
        BLOCK,
    )
