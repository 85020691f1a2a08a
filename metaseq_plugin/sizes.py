"""The sizes of OPT, one row each: Table 1 of Zhang et al. 2022 (arXiv:2205.01068).

``8m`` and ``760m`` are metaseq's own (its opt_job_constants.py). The released 350M differs from its
siblings: post-norm, no final norm, 512-dim word embeddings. E and D are those of ``opt.py``.
"""

from argparse import Namespace
from typing import Any, Mapping, NamedTuple, Optional

ARCH = "opt"  # the name without a size
FFN_RATIO = 4  # every OPT has a feed-forward dim of 4·D
MAX_POSITIONS = 2048  # and reads so many tokens
# What makes one model another than the next: its tensors, or what is computed with them.
DIMENSIONS = (
    "decoder_layers",
    "decoder_embed_dim",
    "decoder_attention_heads",
    "decoder_ffn_embed_dim",
    "decoder_word_embed_dim",
    "decoder_post_norm",
    "decoder_max_positions",
)


class OPTSize(NamedTuple):
    """One row of the size table: what distinguishes a published OPT from its siblings."""

    layers: int
    embed_dim: int
    heads: int
    word_embed_dim: Optional[int] = None  # E, where it is not D
    post_norm: bool = False
    ffn_dim: Optional[int] = None  # F, where it is not 4·D; no published OPT's

    @property
    def ffn_embed_dim(self) -> int:
        return self.ffn_dim or FFN_RATIO * self.embed_dim


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


def dimensions_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each of ``DIMENSIONS``; what ``settings`` leaves out is its arch's (``_name``)."""
    given = {name: settings[name] for name in DIMENSIONS if settings.get(name) is not None}
    complete = Namespace(**{"decoder_max_positions": MAX_POSITIONS, **given})
    fill_size(complete, str(settings.get("_name") or ARCH))
    if complete.decoder_word_embed_dim == complete.decoder_embed_dim:
        complete.decoder_word_embed_dim = None
    return {name: vars(complete)[name] for name in DIMENSIONS}


def size_of(settings: Mapping[str, Any]) -> OPTSize:
    """The row of the dimensions in ``settings``, published or not."""
    dims = dimensions_of(settings)
    return OPTSize(
        layers=dims["decoder_layers"],
        embed_dim=dims["decoder_embed_dim"],
        heads=dims["decoder_attention_heads"],
        word_embed_dim=dims["decoder_word_embed_dim"],
        post_norm=bool(dims["decoder_post_norm"]),
        ffn_dim=None
        if dims["decoder_ffn_embed_dim"] == FFN_RATIO * dims["decoder_embed_dim"]
        else dims["decoder_ffn_embed_dim"],
    )


def arch_of(settings: Mapping[str, Any]) -> str:
    """The ``--arch`` of the dimensions in ``settings``: that of a size, or the bare ``opt``."""
    wanted = {**dimensions_of(settings), "decoder_max_positions": MAX_POSITIONS}
    names = (f"{ARCH}_{size}" for size in SIZES)
    return next((name for name in names if dimensions_of({"_name": name}) == wanted), ARCH)


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give a model the dimensions in ``settings``.

    ``--arch opt_125m`` for a size; for others ``--arch opt`` and every dimension that is not derived.
    """
    arch, dims = arch_of(settings), dimensions_of(settings)
    derived = {
        "decoder_ffn_embed_dim": FFN_RATIO * dims["decoder_embed_dim"],
        "decoder_word_embed_dim": None,
        "decoder_post_norm": False,
        "decoder_max_positions": MAX_POSITIONS,
    }
    known = derived if arch == ARCH else dimensions_of({"_name": arch})
    flags = ["--arch", arch]
    for name, value in dims.items():
        if name not in known or known[name] != value:
            flags.append(f"--{name.replace('_', '-')}")
            flags += [] if value is True else [str(value)]
    return flags
