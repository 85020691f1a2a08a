"""Output projection and cross entropy in one step, without the logits of the whole batch.

N tokens of the batch, n tokens of a chunk, D model dim, V vocab.

The logits of a small model are its largest tensor (2,048 tokens × 50,272 columns = 412 MB in fp32),
and the usual loss holds about four such tensors at once. Here the tokens are cut into chunks, and
everything that is V wide lives for one chunk only. Since the gradient of a summed cross entropy is
known as soon as the logits are, it is taken in the forward pass, while they are there:

(1) logits = X Wᵀ for the chunk's rows of X                                     (n, V)
(2) probabilities P from them, the softmax in fp32 always; loss = -log P[target] (``loss_softmax.py``)
(3) G = P - onehot(target); dX = G W; dW += Gᵀ X
(4) backward only multiplies dX and dW by the gradient that arrives, in place.

So there are three matrix products in all; recomputing the logits in backward would make four. On CPUs
in fp32 the first two run on oneDNN, the second not on AVX2 (``linear.py``); dW's would need a second
(V, D) tensor there.

16 bits: softmax statistics, loss and dW's sum are fp32; G is rounded to the features' type for the
products. An entry of P is near 1/V and would be subnormal in fp16, and the loss scale that should
prevent this arrives only in (4): G therefore carries a fixed power of two, ``FP16_SCALE``, which
(4) takes out again in fp32.

Vocabulary-parallel (``shard``): each of tp ranks holds V/tp rows of W and everything above is V/tp
wide; no logits are gathered. (2) exchanges two numbers a token (``vocab_shard.py``) in one collective
a chunk, after which every rank has the whole loss and its own columns of P. dW stays with the rows it
belongs to. (3) gives only this rank's part of dX: their sum over the ranks is the gradient, and
backward has no collective, so whoever hands in the features adds one there.
"""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaseq_plugin.modules.linear import matmul
from metaseq_plugin.modules.loss_chunks import equal_chunk_tokens
from metaseq_plugin.modules.loss_softmax import gradient_scale, softmax_
from metaseq_plugin.modules.vocab_shard import VocabShard

# Before 2.10 (pytorch/pytorch pull request 167931) addmm refused an fp32 sum of 16-bit products.
HAS_FP32_ADDMM = torch.__version__ >= "2.10"  # TorchVersion compares numbers, not letters


def chunked_cross_entropy(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int,
    chunk_tokens: int,
    shard: Optional[VocabShard] = None,
) -> Tensor:
    """Sum over tokens of ``-log softmax(features @ weight.T)[target]``, differentiable once.

    Args:
        features: (N, D), fp32, fp16 or bf16; N may be 0.
        weight: (V, D); computed with in the features' type.
        target: (N,) integers in [0, V), or ``ignore_index``, which adds nothing to loss or gradient.
        chunk_tokens: tokens in a chunk; 0 chooses by the batch's size.
        shard: ``weight`` is only these rows of the embedding; every rank of the group makes this call
            with the same features, targets and chunks. The gradient of ``features`` is then this
            rank's PART: the caller sums it over the group. That of ``weight`` is complete.

    Returns: () fp32, in nats, the same bits on all ranks of a group. The gradients hold one (V, D) fp32 tensor from here to backward.
    """
    loss, _ = _ChunkedCrossEntropy.apply(
        features,
        weight.to(features.dtype),
        target,
        ignore_index,
        chunk_tokens,
        torch.is_grad_enabled(),
        shard,
    )
    return loss


@torch.no_grad()
def token_losses(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int,
    chunk_tokens: int,
    shard: Optional[VocabShard] = None,
) -> Tensor:
    """As ``chunked_cross_entropy``, but (N,) fp32, one loss a token, and without gradients."""
    _, losses = _ChunkedCrossEntropy.apply(
        features, weight.to(features.dtype), target, ignore_index, chunk_tokens, False, shard
    )
    return losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    """(features, weight) -> (sum of losses (), losses (N,)); only the sum has a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        ignore_index: int,
        chunk_tokens: int,
        with_gradient: bool,
        shard: Optional[VocabShard],
    ) -> Tuple[Tensor, Tensor]:
        # Under no_grad the flags in needs_input_grad still say what the inputs ask for.
        needs_dx = with_gradient and ctx.needs_input_grad[0]
        needs_dw = with_gradient and ctx.needs_input_grad[1]
        num_tokens = features.size(0)
        losses = features.new_empty(num_tokens, dtype=torch.float32)
        dx = torch.empty_like(features) if needs_dx else None
        dw = torch.empty_like(weight, dtype=torch.float32) if needs_dw else None
        valid = target.ne(ignore_index)
        target = target.masked_fill(~valid, 0)  # ignore_index need not be a column

        if num_tokens > 0:
            size = equal_chunk_tokens(num_tokens, chunk_tokens)
            # Memory that nobody touches, as where oneDNN computes, costs a CPU nothing.
            buffer = features.new_empty(size, weight.size(0))
            # Autocast would choose the products' types by itself, and cannot write into buffers.
            with torch.autocast(features.device.type, enabled=False):
                for start in range(0, num_tokens, size):
                    rows = slice(start, min(start + size, num_tokens))
                    losses[rows] = _chunk(
                        features[rows],
                        weight,
                        target[rows],
                        valid[rows],
                        buffer[: rows.stop - start],
                        None if dx is None else dx[rows],
                        dw,
                        is_first=start == 0,
                        shard=shard,
                    )
        elif dw is not None:
            dw.zero_()
        ctx.dtype = features.dtype
        ctx.save_for_backward(dx, dw)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Optional[Tensor], _: Optional[Tensor]
    ) -> Tuple[Optional[Tensor], ...]:
        dx, dw = ctx.saved_tensors
        if grad_output is None:
            return (None,) * 7
        return (
            _scaled(dx, grad_output, ctx.dtype),
            _scaled(dw, grad_output, ctx.dtype),
            *(None,) * 5,
        )


def _chunk(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    valid: Tensor,
    room: Tensor,
    dx: Optional[Tensor],
    dw: Optional[Tensor],
    is_first: bool,
    shard: Optional[VocabShard],
) -> Tensor:
    """One chunk's losses (n,); fills its rows of dx (n, D), adds its part to dw (V, D) or begins it.

    ``room`` (n, V) may be used for the logits.
    """
    logits = matmul(x, weight.t(), room)  # (n, V)
    with_gradient = dx is not None or dw is not None
    target_lprob = softmax_(logits, target, shard, with_gradient)  # (n, 1)
    keep = valid.unsqueeze(1)  # (n, 1); masking rows of D is cheaper than rows of V
    if dx is not None:
        torch.mul(matmul(logits, weight, room=dx), keep, out=dx)
    if dw is not None:
        _add_product(dw, logits.t(), x * keep, beta=0.0 if is_first else 1.0)
    return (-target_lprob.squeeze(1)).masked_fill_(~valid, 0.0)


def _add_product(total: Tensor, a: Tensor, b: Tensor, beta: float) -> None:
    """total = beta * total + a @ b, where total is fp32 and a and b may have 16 bits.

    ``beta`` is 1, or 0, with which what total holds does not matter, not even NaN.
    """
    if a.dtype == torch.float32:
        total.addmm_(a, b, beta=beta)
    elif a.is_cuda and not HAS_FP32_ADDMM:
        product = torch.mm(a, b, out_dtype=torch.float32)
        if beta == 0.0:
            total.zero_()
        total.add_(product)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, beta=beta, out=total)
    else:  # no such product off the GPU
        total.addmm_(a.float(), b.float(), beta=beta)


def _scaled(
    gradient: Optional[Tensor], grad_output: Tensor, dtype: torch.dtype
) -> Optional[Tensor]:
    """``gradient``, which carries ``gradient_scale(dtype)``, times the gradient that arrives, as ``dtype``."""
    if gradient is None:
        return None
    factor = grad_output / gradient_scale(dtype)
    if gradient.dtype != torch.float32:  # in fp16 the factor itself could overflow
        return gradient.float().mul_(factor).to(dtype)
    if factor.is_cpu and factor.item() == 1.0:  # fp32 training: spare a pass over (V, D)
        return gradient.to(dtype)
    return gradient.mul_(factor).to(dtype)
