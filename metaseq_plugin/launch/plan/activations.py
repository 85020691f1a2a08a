"""Activations of a decoder layer: what forward keeps of it, and what its own backward needs besides.

Read off ``models/opt.py`` line by line, with the tensors that each operation saves for its gradient. Names as in
``rank_shape.py``: outside, entered, heads, ffn are bytes of one tensor.

    kept by a layer                                       bytes
      its input, and the sum after attention              2·outside
      outputs of the norms, as q, k, v and fc1 read them  2·entered
      q, k, v and the attention's output                  4·heads
      fc1's output, after ReLU in place                   ffn
      masks of two dropouts                               2·outside, a byte an element on a GPU
      flash attention: log-sum-exps                       4·B·H/t·T
      attention with dropout on a CPU, in fp32: weights,
        mask, product, for q, k, v: copies                3·4·B·H/t·T²

    the layer whose backward runs has besides
      after recomputation    fc2's output and what dropout left of it       2·outside
      at ReLU                gradients of ffn, before and after; of fc2     2·ffn + c·D·F/t
      in attention           on a CPU: gradients of two matrices            2·4·B·H/t·T²

Compare Korthikanti et al. 2022 (arXiv:2205.05198), equation 2: 34·s·b·h bytes and 5·a·s²·b, for GELU, which keeps its
input as well, and for attention that keeps its matrix. Here ReLU works in place and flash attention keeps no matrix.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.plan.rank_shape import RankShape


class LayerActivations(NamedTuple):
    """Bytes of one layer.

    Attributes:
        kept: from its forward to its backward, without recomputation.
        input: what recomputation starts from; part of ``kept``.
        in_forward: at most while it computes and keeps nothing, its input not counted.
        in_backward: at most in its backward on top of ``kept``, the gradient of its output counted.
    """

    kept: int
    input: int
    in_forward: int
    in_backward: int


def layer_activations(shape: RankShape, settings: MemorySettings) -> LayerActivations:
    """The table above."""
    outside, entered, heads, ffn = shape.outside, shape.entered, shape.heads, shape.ffn
    mask = 0
    if settings.dropout > 0:
        mask = outside // shape.compute if settings.on_gpu else outside
    attention, scores = _attention(shape, settings)
    kept = 2 * outside + 2 * entered + attention + ffn + 2 * mask

    # fc2's output, and its copy that is summed over the model parts; then what dropout leaves of it.
    leaving = 2 * entered if heads < entered or settings.dropout > 0 else entered
    fc2, projections = shape.compute * shape.wide, shape.compute * 4 * shape.square
    in_forward = max(outside + entered + ffn + leaving, entered + attention + 4 * heads)
    recomputed = leaving if settings.checkpoint_activations else 0
    at_relu = 2 * ffn + fc2 - mask
    at_attention = 4 * heads + scores + 2 * fc2 + projections - entered - ffn - outside - 2 * mask
    return LayerActivations(
        kept=kept,
        input=outside,
        in_forward=in_forward,
        in_backward=outside + max(recomputed, at_relu, at_attention),
    )


def _attention(shape: RankShape, settings: MemorySettings) -> tuple[int, int]:
    """What attention keeps, and one of its matrices; flash attention has none."""
    if settings.on_gpu or settings.attention_dropout == 0:
        return 4 * shape.heads + 4 * shape.statistics, 0
    in_fp32 = 4 * shape.heads // shape.compute
    return 3 * in_fp32 + shape.heads + 3 * 4 * shape.scores, 4 * shape.scores
