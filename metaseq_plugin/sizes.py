"""The sizes of OPT, one row each: Table 1 of Zhang et al. 2022 (arXiv:2205.01068).

``8m`` and ``760m`` are metaseq's own (its opt_job_constants.py). The released 350M differs from its
siblings: post-norm, no final norm, 512-dim word embeddings. E and D are those of ``opt.py``.
"""

from typing import Any, NamedTuple, Optional

ARCH = "opt"  # the name without a size
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


def is_opt(name: object) -> bool:
    """Whether ``name``, of a ``--arch`` or a ``--task``, is one of this package's."""
    return str(name) == ARCH or str(name).startswith(f"{ARCH}_")


def fill_size(cfg: Any, arch: str) -> None:
    """Give ``cfg`` the dimensions of ``arch`` where the user left them out.

    Called with a Namespace for the command line and with an omegaconf node for hydra and for
    checkpoints, so that all three know the same sizes.
    """
    size = SIZES.get(arch.removeprefix(f"{ARCH}_"), SIZES["125m"])
    rows = {
        "decoder_layers": size.layers,
        "decoder_embed_dim": size.embed_dim,
        "decoder_attention_heads": size.heads,
        "decoder_word_embed_dim": size.word_embed_dim,
        "decoder_post_norm": size.post_norm,
    }
    for name, value in rows.items():
        if name not in cfg or getattr(cfg, name) is None:
            setattr(cfg, name, value)
    if "decoder_ffn_embed_dim" not in cfg or cfg.decoder_ffn_embed_dim is None:
        cfg.decoder_ffn_embed_dim = FFN_RATIO * cfg.decoder_embed_dim
