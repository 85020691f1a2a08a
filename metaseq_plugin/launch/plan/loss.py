"""Memory of the loss: logits, and the gradients that are taken with them.

n tokens of a chunk, N of the micro-batch; E, V; t model parts; c bytes of an element that is computed with.

    --criterion chunked_cross_entropy (``modules/chunked_loss.py``)       bytes
      gradient of the embedding, summed in fp32 over the chunks           4·V/t·E
      gradient of the features                                            c·N·E
      a chunk: logits in fp32 (on a CPU also the room that is set aside)  4·n·V/t (8)
               or in 16 bits, of which a GPU's kernel makes the gradient  2·n·V/t
               a CPU converts them, for a log-softmax in fp32             (2 + 4 + 4)·n·V/t
      its backward: the gradient of the embedding in c bytes              (4 + c)·V/t·E, or 4·V/t·E in fp32

    --criterion cross_entropy (fairseq's): everything N instead of n tokens wide
      forward: logits, their log-softmax in fp32                          (4 + 4)·N·V, or (2 + 4)·N·V in 16 bits
               for bf16, and on a CPU, which convert first                (2 + 4 + 4)·N·V
      backward: log-softmax, its gradient, and that of the logits         (4 + 4 + 4)·N·V, + 2·N·V in 16 bits
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.plan.rank_shape import RankShape
from metaseq_plugin.modules.loss_chunks import equal_chunk_tokens


class LossMemory(NamedTuple):
    """Bytes at most: while the loss is computed; while its backward starts; what waits for the embedding's."""

    in_forward: int
    in_backward: int
    waiting: int


def loss_memory(shape: RankShape, settings: MemorySettings) -> LossMemory:
    """The table above."""
    c, N = shape.compute, settings.num_tokens
    rows = shape.tokens // shape.word_dim  # V/t
    waiting = c * shape.tokens
    if settings.on_gpu and settings.chunked_loss:
        logit_bytes = c
    elif c == 4:
        logit_bytes = 8
    else:
        converts = not settings.on_gpu or settings.precision.endswith("bf16")
        logit_bytes = c + 4 + 4 * converts
    if not settings.chunked_loss:
        in_backward = N * rows * (12 + c * (c < 4)) + waiting
        return LossMemory(N * rows * logit_bytes, in_backward, waiting)
    gradients = 4 * shape.tokens + c * N * shape.word_dim
    chunk = equal_chunk_tokens(N, settings.loss_chunk_tokens)
    in_backward = gradients + (waiting if c < 4 else 0)
    return LossMemory(gradients + logit_bytes * chunk * rows, in_backward, waiting)
