"""Activations of a decoder layer: what forward keeps of it, and what its own backward needs besides.

Read off ``models/opt.py`` line by line, with the tensors that each operation saves for its gradient. Names as in
``rank_shape.py``: outside, entered, heads, ffn are bytes of one tensor.

    kept by a layer                                       bytes
      its input, and the sum after attention              2·outside
      outputs of the norms, as q, k, v and fc1 read them  2·entered
      q, k, v and the attention's output                  4·heads
      fc1's output, after ReLU in place                   ffn
      masks of two dropouts                               2·outside/c, a byte an element
      flash attention: log-sum-exps                       4·B·H/t·T
      attention with dropout on a CPU, in fp32, by rows:
        which entries stay, of those that a row sees      B·H/t·T·(T + r)/2
        in 16 bits: weights, mask, product, and copies    3·4·B·H/t·T² + 3·4·B·H/t·T·K

    with --recompute selective it keeps neither outputs of norms nor masks; but what sequence parallelism gathered of
    the former, and of a layer that norms its sums (the 350M's) its input, which the layer before it made

    the layer whose backward runs has besides
      after recomputation    fc2's output and what dropout left of it       2·outside
      at ReLU                gradients of ffn, before and after; of fc2     2·ffn + c·D·F/t
      in attention           on a CPU, in fp32: of r rows weights, their    3·4·B·H/t·T·r + 5·heads
                             gradients, and what stays as a factor; copies
                             of q, k, v, the gradient (two)
                             in 16 bits: gradients of two matrices          2·4·B·H/t·T²

Compare Korthikanti et al. 2022 (arXiv:2205.05198), equation 2: 34·s·b·h bytes and 5·a·s²·b, for GELU, which keeps its
input as well, and for attention that keeps its matrix. Here ReLU works in place and flash attention keeps no matrix.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.plan.rank_shape import RankShape
from metaseq_plugin.modules.row_blocks import BLOCK_ELEMENTS


class LayerActivations(NamedTuple):
    """Bytes of one layer.

    Attributes:
        kept: from its forward to its backward, without recomputation.
        input: what recomputation of all starts from; part of ``kept``.
        selected: from its forward to its backward, with selective recomputation.
        in_forward: at most while it computes and keeps nothing, its input not counted.
        in_backward: at most in its backward on top of ``kept``, the gradient of its output counted; of a layer that
            was run again, ``in_backward_again``; of one that makes norms again, on top of ``selected``,
            ``in_backward_selected``.
    """

    kept: int
    input: int
    selected: int
    in_forward: int
    in_backward: int
    in_backward_again: int
    in_backward_selected: int


def layer_activations(shape: RankShape, settings: MemorySettings) -> LayerActivations:
    """The table above."""
    outside, entered, heads, ffn = shape.outside, shape.entered, shape.heads, shape.ffn
    mask = outside // shape.compute if settings.dropout > 0 else 0
    attention, scores = _attention(shape, settings)
    kept = 2 * outside + 2 * entered + attention + ffn + 2 * mask

    # fc2's output, and its copy that is summed over the model parts; then what dropout leaves of it.
    leaving = 2 * entered if heads < entered or settings.dropout > 0 else entered
    fc2, projections = shape.compute * shape.wide, shape.compute * 4 * shape.square
    in_forward = max(outside + entered + ffn + leaving, entered + attention + 4 * heads)
    at_relu = 2 * ffn + fc2
    at_attention = 4 * heads + scores + 2 * fc2 + projections - ffn - outside
    in_backward = outside + max(at_relu - mask, at_attention - entered - 2 * mask)
    gathered = 2 * entered if settings.sequence_parallel else outside * shape.post_norm
    return LayerActivations(
        kept=kept,
        input=outside,
        selected=2 * outside + gathered + attention + ffn,
        in_forward=in_forward,
        in_backward=in_backward,
        in_backward_again=max(in_backward, outside + leaving),
        in_backward_selected=outside + max(at_relu, at_attention),
    )


def _attention(shape: RankShape, settings: MemorySettings) -> tuple[int, int]:
    """What attention keeps, and what its backward makes besides the gradients; flash attention nothing."""
    if settings.on_gpu or settings.attention_dropout == 0:
        return 4 * shape.heads + 4 * shape.statistics, 0
    if shape.compute == 4:
        block = min(shape.scores, BLOCK_ELEMENTS)
        kept = 4 * shape.heads + 4 * shape.statistics + (shape.scores + block) // 2
        return kept, 3 * 4 * block + 5 * shape.heads
    in_fp32 = 4 * shape.heads // shape.compute
    return 3 * in_fp32 + shape.heads + 3 * 4 * shape.scores, 4 * shape.scores
