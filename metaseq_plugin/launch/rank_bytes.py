"""What a rank holds between two updates, in bytes: the closed formula, and the layouts of the sizes.

    rank_bytes(SIZES["175b"], LAYOUTS["175b"], rank=0).total    # 2,873,903,760

Legend as in ``opt.py``: D, E, F, V; P rows of the position table, L layers; t model parts, s shards.
Tensor parallelism leaves a rank 1/t of the rows, or of the columns, of a matrix; FSDP2 then deals out
the rows that are left in blocks of ⌈n/s⌉, so that shard i has

    c(n) = min(⌈n/s⌉, max(0, n - i·⌈n/s⌉))  of n rows: less on the last shards, perhaps none.

    elements             cut by tensor parallelism         alike on all model parts
    each of L layers
      q, k, v            3·c(D/t)·(D + 1)
      out_proj           c(D)·D/t                          c(D)
      fc1                c(F/t)·(D + 1)
      fc2                c(D)·F/t                          c(D)
      two norms                                            4·c(D)
    tokens, positions    c(V/t)·E                          c(P)·D
    last norm                                              2·c(D)                   not in the 350M
    project_in, _out                                       c(D)·E + c(E)·D          the 350M only

An element takes 4 bytes as fp32 parameter, 4 as gradient and 8 as AdamW's two moments, which also
counts the updates of each parameter, in 4 bytes. Whatever is computed in 16 bits comes and goes.
"""

from typing import NamedTuple

from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.ledger.flops import VOCAB_SIZE
from metaseq_plugin.sizes import OPTSize

POSITION_ROWS = 2_050  # 2,048 tokens and the two rows that learned positions leave to <s> and <pad>


# 175B's is the one it was trained in (992 A100s). Of the others the model parts are metaseq's, but for
# the 30B (4, not 2), and there are as many shards as leave each the same number of whole sequences.
LAYOUTS = {
    "8m": Layout(model_parallel_size=2, num_shards=2),
    "125m": Layout(model_parallel_size=2, num_shards=8),
    "350m": Layout(model_parallel_size=2, num_shards=16),
    "760m": Layout(model_parallel_size=2, num_shards=16),
    "1.3b": Layout(model_parallel_size=2, num_shards=32),
    "2.7b": Layout(model_parallel_size=4, num_shards=32),
    "6.7b": Layout(model_parallel_size=2, num_shards=64),
    "13b": Layout(model_parallel_size=2, num_shards=128),
    "30b": Layout(model_parallel_size=4, num_shards=128),
    "66b": Layout(model_parallel_size=8, num_shards=128),
    "175b": Layout(model_parallel_size=8, num_shards=124),
}


class Elements(NamedTuple):
    """Numbers that a rank holds, by what its tensor-parallel neighbours hold: other ones, or the same."""

    cut: int
    alike: int


class RankBytes(NamedTuple):
    """What a rank holds."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def rank_elements(
    size: OPTSize,
    layout: Layout,
    rank: int,
    vocab_size: int = VOCAB_SIZE,
    position_rows: int = POSITION_ROWS,
) -> Elements:
    """The formula above; the layout must divide the heads and the vocabulary."""
    t, shard = layout.model_parallel_size, rank // layout.model_parallel_size
    D, F = size.embed_dim, size.ffn_embed_dim
    E = size.word_embed_dim or D

    def c(rows: int) -> int:
        block = -(-rows // layout.num_shards)
        return min(block, max(0, rows - shard * block))

    cut = size.layers * (3 * c(D // t) * (D + 1) + c(F // t) * (D + 1) + c(D) * ((D + F) // t))
    cut += c(vocab_size // t) * E
    alike = size.layers * 6 * c(D) + c(position_rows) * D
    if not size.post_norm:
        alike += 2 * c(D)
    if E != D:
        alike += c(D) * E + c(E) * D
    return Elements(cut, alike)


def num_tensors(size: OPTSize) -> int:
    """Parameters as PyTorch counts them: 16 a layer, and what stands around the layers."""
    has_projections = size.word_embed_dim not in (None, size.embed_dim)
    return 16 * size.layers + 2 + 2 * (not size.post_norm) + 2 * has_projections


def rank_bytes(
    size: OPTSize,
    layout: Layout,
    rank: int,
    vocab_size: int = VOCAB_SIZE,
    position_rows: int = POSITION_ROWS,
) -> RankBytes:
    """What ``rank`` of ``layout`` holds of a model of ``size``.

    FSDP2 fills the shards of parameters and gradients up to shard 0's rows, so that the memory under
    them is what shard 0 holds, on every rank; moments take no more than they hold.
    """
    elements = sum(rank_elements(size, layout, rank, vocab_size, position_rows))
    return RankBytes(4 * elements, 4 * elements, 8 * elements + 4 * num_tensors(size))
