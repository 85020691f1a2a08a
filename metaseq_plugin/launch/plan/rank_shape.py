"""What the other formulas of memory are made of: sizes of one rank's layer, embedding and activations, in bytes.

Legend as in ``opt.py``: B sequences and T tokens of a micro-batch, N = B·T; D, E, F, H, V; P rows of the position
table; t model parts, s shards; c bytes of an element that is computed with.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import OPTSize


class RankShape(NamedTuple):
    """Sizes on one rank.

    Attributes:
        layers: L.
        shards: s; 1 without FSDP.
        compute: c.
        layer, root: elements of a decoder layer, and of what stands around the layers, on a model part. FSDP2 fills the
            rows of each tensor up to a multiple of s, which is counted.
        tokens: V/t·E, elements of the token embedding on a model part.
        word_dim: E.
        square, wide: D·D/t and F·D/t, elements of out_proj, and of fc1 or fc2.
        outside: N·D·c bytes, of an activation between the cut blocks; N/t tokens with --sequence-parallel.
        entered: N·D·c bytes, as a cut block is given it.
        heads: N·D/t·c bytes, of q, k, v or the attention's output.
        ffn: N·F/t·c bytes.
        scores: B·H/t·T² elements of an attention matrix.
        statistics: B·H/t·T numbers, one for each row of it.
        post_norm: norms come after the residual sums.
    """

    layers: int
    shards: int
    compute: int
    layer: int
    root: int
    tokens: int
    word_dim: int
    square: int
    wide: int
    outside: int
    entered: int
    heads: int
    ffn: int
    scores: int
    statistics: int
    post_norm: bool


def rank_shape(size: OPTSize, layout: Layout, settings: MemorySettings) -> RankShape:
    """The sizes; the layout must divide heads, vocabulary and, with --sequence-parallel, tokens."""
    t, c, N = layout.model_parallel_size, settings.compute_bytes, settings.num_tokens
    s = layout.num_shards if settings.fully_sharded else 1
    D, F = size.embed_dim, size.ffn_embed_dim
    E = size.word_embed_dim or D

    def filled(rows: int) -> int:
        return -(-rows // s) * s

    layer = 3 * filled(D // t) * (D + 1) + filled(F // t) * (D + 1) + filled(D) * ((D + F) // t + 6)
    root = filled(settings.vocab_size // t) * E + filled(settings.position_rows) * D
    if not size.post_norm:
        root += 2 * filled(D)
    if E != D:
        root += filled(D) * E + filled(E) * D
    entered = N * D * c
    sequences = settings.batch_size * (size.heads // t)
    return RankShape(
        layers=size.layers,
        shards=s,
        compute=c,
        layer=layer,
        root=root,
        tokens=settings.vocab_size // t * E,
        word_dim=E,
        square=D * D // t,
        wide=F * D // t,
        outside=entered // t if settings.sequence_parallel else entered,
        entered=entered,
        heads=entered // t,
        ffn=N * F // t * c,
        scores=sequences * settings.tokens_per_sample**2,
        statistics=sequences * settings.tokens_per_sample,
        post_norm=bool(size.post_norm),
    )
