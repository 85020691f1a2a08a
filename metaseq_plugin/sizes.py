"""The sizes of OPT, one row each: Table 1 of Zhang et al. 2022 (arXiv:2205.01068).

``8m`` and ``760m`` are metaseq's own (its opt_job_constants.py). The released 350M differs from its
siblings: post-norm, no final norm, 512-dim word embeddings. E and D are those of ``opt.py``.
"""

from typing import NamedTuple, Optional

FFN_RATIO = 4  # every OPT has a feed-forward dim of 4·D


class OPTSize(NamedTuple):
    """One row of the size table: what distinguishes a published OPT from its siblings."""

    layers: int
    embed_dim: int
    heads: int
    word_embed_dim: Optional[int] = None  # E, where it is not D
    post_norm: bool = False

    @property
    def ffn_embed_dim(self) -> int:
        return FFN_RATIO * self.embed_dim


SIZES = {
    "8m": OPTSize(layers=4, embed_dim=128, heads=2),
    "125m": OPTSize(layers=12, embed_dim=768, heads=12),
    "350m": OPTSize(layers=24, embed_dim=1024, heads=16, word_embed_dim=512, post_norm=True),
    "760m": OPTSize(layers=24, embed_dim=1536, heads=16),
    "1.3b": OPTSize(layers=24, embed_dim=2048, heads=32),
    "2.7b": OPTSize(layers=32, embed_dim=2560, heads=32),
    "6.7b": OPTSize(layers=32, embed_dim=4096, heads=32),
    "13b": OPTSize(layers=40, embed_dim=5120, heads=40),
    "30b": OPTSize(layers=48, embed_dim=7168, heads=56),
    "66b": OPTSize(layers=64, embed_dim=9216, heads=72),
    "175b": OPTSize(layers=96, embed_dim=12288, heads=96),
}
for _name, _size in SIZES.items():
    assert _size.embed_dim % _size.heads == 0, f"{_name}: {_size}"
