"""Keys and settings of metaseq's checkpoints, and every one that a conversion does not carry over.

A metaseq file is a dictionary with ``cfg`` (``cfg["model"]`` is the Namespace of the command line),
``model``, ``optimizer_history``, ``extra_state`` and perhaps ``last_optimizer_state`` and
``shard_metadata``. Its tensors have our names, except that the three projections of attention are one:

    decoder.layers.0.self_attn.qkv_proj.weight  (3·D/tp, D): rows of k, then v, then q of this model part

Nothing is rescaled: metaseq spreads attention's 1/√K over q and k when it computes, not in the weights.
Files for other programs (Meta's ``convert_to_singleton``) hold q, k and v apart; both are read.
"""

import argparse
import json
from typing import Any, Dict, Mapping, Tuple

from torch import Tensor

from metaseq_plugin.compat.checkpoint_settings import plain
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tensors import EMBEDDING
from metaseq_plugin.storage.lazy import Lazy, Tensors
from metaseq_plugin.storage.torch_file import StandIn
from metaseq_plugin.storage.typed import described

ARCH = "transformer_lm_megatron"
# Names that metaseq and its predecessors have for the model.
ARCHS = ("transformer_lm", "model_parallel_transformer_lm")

FUSED = ".qkv_proj."
BLOCKS = (".k_proj.", ".v_proj.", ".q_proj.")  # the order of their rows in the fused projection

POSITIONS = "decoder.embed_positions.weight"
OUTPUT = "decoder.output_projection.weight"
VERSION = "decoder.version"
FLAT = "flat_param"

# Tensors that are left behind, and why.
DROPPED = {
    VERSION: "the number of the decoder's file format, always 3",
    OUTPUT: "the token embedding a second time, which is checked",
    "decoder.embed_positions._float_tensor": "tells fairseq's fixed positions their data type",
    "decoder._float_tensor": "the same in other versions",
    "_float_tensor": "the same in other versions",
}
# What a file holds beside tensors: what becomes of each entry.
ENTRIES = {
    "cfg": "the model's settings are read, the rest is the run's",
    "args": "the settings, in files older than cfg",
    "model": "read",
    "shard_metadata": "read",
    "last_optimizer_state": "read, unless --drop-optimizer",
    "optimizer_history": "its last entry goes with the optimizer's state",
    "criterion": "empty: the losses have no parameters",
    "task_state": "state of metaseq's task",
    "extra_state": "timers, meters and data position of metaseq's loaders",
}

# Our setting: metaseq's.
SETTINGS = {
    "decoder_layers": "decoder_layers",
    "decoder_embed_dim": "decoder_embed_dim",
    "decoder_attention_heads": "decoder_attention_heads",
    "decoder_ffn_embed_dim": "decoder_ffn_embed_dim",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "init_std": "megatron_init_sigma",
}
REQUIRED = 4  # so many of them, from the first on, have no default
# metaseq's setting: what OPT has, and what metaseq takes where it is left out.
FIXED: Dict[str, Tuple[Any, Any]] = {
    "activation_fn": ("relu", "relu"),
    "share_decoder_input_output_embed": (True, False),
    "decoder_learned_pos": (True, False),
    "no_scale_embedding": (True, False),
    "alibi": (False, False),
    "disable_bias": (False, False),
    "disable_affine_ln": (False, False),
    "self_attn_doc_sep": (-1, -1),
}


def is_metaseq(settings: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is one of metaseq's, by its ``cfg["model"]`` and its tensors' names."""
    name = str(settings.get("_name") or settings.get("arch") or "")
    return name.startswith(ARCHS) or _has_names_of_metaseq(model)


def is_metaseqs_own(state: Any) -> bool:
    """Whether no one but metaseq can have written ``state``; its whole files with q, k and v apart look
    like those of fairseq's ``transformer_lm``."""
    model = state.get("model") if isinstance(state, dict) else None
    return isinstance(model, dict) and _has_names_of_metaseq(model)


def _has_names_of_metaseq(model: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and (FLAT in key or FUSED in key) for key in model)


def settings_of(state: Mapping[str, Any]) -> Dict[str, Any]:
    """The model's settings in a file by metaseq's names, wherever the file has them."""
    cfg = plain(state.get("cfg"))
    settings = _plain_settings(cfg.get("model") if isinstance(cfg, Mapping) else None)
    return settings or _plain_settings(plain(state.get("args")))


def _plain_settings(held: Any) -> Dict[str, Any]:
    """Settings by name from a dict, a Namespace or a stand-in; enumerated values as their text."""
    if isinstance(held, StandIn):
        held = plain(held.state)
    return (
        {str(name): _plain(value) for name, value in held.items()} if isinstance(held, dict) else {}
    )


def _plain(value: Any) -> Any:
    """The text of one of metaseq's enumerations, which pickle as their class called with it."""
    if isinstance(value, StandIn) and len(value.arguments) == 1:
        return value.arguments[0]
    return value


def from_metaseq_settings(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
) -> Dict[str, Any]:
    """Our settings by name.

    Args:
        settings: ``cfg["model"]``.
        tensors: of one model part by our names, for what the shapes tell better.

    Raises:
        UserError: settings that are missing, or that our model cannot have.
    """
    problems = [
        f"`{theirs}` must be there, but is not"
        for theirs in list(SETTINGS.values())[:REQUIRED]
        if type(settings.get(theirs)) is not int
    ]
    problems += [
        f"`{theirs}` must be a number, but is {described(settings[theirs])}"
        for theirs in list(SETTINGS.values())[REQUIRED:]
        if theirs in settings and type(settings[theirs]) not in (int, float)
    ]
    problems += [
        f"`{name}` must be {json.dumps(value)}, but is {json.dumps(found, default=str)}"
        for name, (value, default) in FIXED.items()
        if isinstance(found := settings.get(name, default), Tensor) or found != value
    ]
    problems += [
        f"`{name}` must be there, but is not"
        for name in (EMBEDDING, POSITIONS)
        if name not in tensors or tensors[name].dim() != 2
    ]
    if problems:
        raise UserError(
            f"In {source}: {'; '.join(problems)}. Only OPT models as released can be read."
        )
    found = {ours: settings[theirs] for ours, theirs in SETTINGS.items() if theirs in settings}
    word_dim, dim = tensors[EMBEDDING].shape[1], found["decoder_embed_dim"]
    # metaseq took out the option together with everything of the 350M, the only model without it.
    pre_norm = settings.get("decoder_normalize_before", word_dim == dim)
    return {
        **found,
        "decoder_max_positions": len(tensors[POSITIONS]) - 2,
        "decoder_word_embed_dim": None if word_dim == dim else word_dim,
        "decoder_post_norm": not pre_norm,
    }


def to_metaseq_settings(cfg: Any, model_parallel_size: int) -> argparse.Namespace:
    """``cfg["model"]`` of a file of metaseq's; a Namespace, as its own scripts expect it."""
    word_dim = cfg.decoder_word_embed_dim or cfg.decoder_embed_dim
    return argparse.Namespace(
        _name=ARCH,
        arch=ARCH,
        **{theirs: cfg[ours] for ours, theirs in SETTINGS.items()},
        **{name: value for name, (value, _) in FIXED.items()},
        decoder_normalize_before=not cfg.decoder_post_norm,
        decoder_input_dim=word_dim,
        decoder_output_dim=word_dim,
        full_megatron_init=True,
        max_target_positions=cfg.decoder_max_positions,
        tokens_per_sample=cfg.decoder_max_positions,
        add_bos_token=False,
        checkpoint_activations=True,
        use_sharded_state=True,
        model_parallel_size=model_parallel_size,
    )


def split_projections(tensors: Tensors, source: str) -> Tensors:
    """One model part's tensors with q, k and v apart.

    Raises:
        UserError: a fused projection that is not three blocks, or one that is there twice.
    """
    split: Dict[str, Lazy] = {}
    for name, held in tensors.lazy.items():
        if FUSED not in name:
            split[name] = held
            continue
        num_rows = len(held.twin)
        block, rest = divmod(num_rows, len(BLOCKS))
        if rest:
            raise UserError(
                f"`{name}` must hold the rows of k, v and q, but in {source} has {num_rows:,}, which "
                "3 does not divide. Use a complete, unmodified checkpoint."
            )
        for i, letter in enumerate(BLOCKS):
            own = name.replace(FUSED, letter)
            if own in tensors:
                raise UserError(
                    f"The model must hold each tensor once, but {source} holds both `{name}` and `{own}`. "
                    "Use a complete, unmodified checkpoint."
                )
            split[own] = tensors.part(name, slice(i * block, (i + 1) * block))
    return Tensors(split)


def fuse_projections(tensors: Tensors) -> Tensors:
    """The inverse, in the order in which metaseq's model holds its parameters."""
    fused: Dict[str, Lazy] = {}
    for name, held in tensors.lazy.items():
        letter = next((letter for letter in BLOCKS if letter in name), None)
        if letter is None:
            fused[name] = held
        elif (whole := name.replace(letter, FUSED)) not in fused:
            blocks = [name.replace(letter, block) for block in BLOCKS]
            fused[whole] = tensors.concatenated(blocks)
    return Tensors(fused)
