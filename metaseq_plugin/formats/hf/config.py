"""The settings files of a Hugging Face OPT folder: of the model ↔ ours, of the tokenizer and of ``generate()``.

Field names and defaults are those of transformers' ``OPTConfig`` (configuration_opt.py); a test holds
them against the installed one. A field that our model has no counterpart for must have the value
that OPT has, and a number must be one that a model can have, or the folder is refused by that field's
name. Whether its sizes are those of the tensors is seen where both are known (formats/tensors.py).
"""

import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import json_file
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE

# Hugging Face's field: ours, and the value a config.json that leaves it out means.
FIELDS = {
    "num_hidden_layers": ("decoder_layers", 12),
    "hidden_size": ("decoder_embed_dim", 768),
    "num_attention_heads": ("decoder_attention_heads", 12),
    "ffn_dim": ("decoder_ffn_embed_dim", 3072),
    "max_position_embeddings": ("decoder_max_positions", 2048),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.0),
    "init_std": ("init_std", 0.02),
}
THEIR_NAMES = {
    **{ours: theirs for theirs, (ours, _) in FIELDS.items()},
    "decoder_word_embed_dim": "word_embed_proj_dim",
}
# What our model always is; the values are also the defaults of a config.json that leaves them out.
FIXED = {
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
    "_remove_final_layer_norm": False,
    "layerdrop": 0.0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
# What the numbers are.
MAX_WHOLE = 2**31 - 1
WHOLE_NUMBERS = (
    "vocab_size", "word_embed_proj_dim", "num_hidden_layers", "hidden_size", "num_attention_heads",
    "ffn_dim", "max_position_embeddings",
)  # fmt: skip
PROBABILITIES = ("dropout", "attention_dropout")
SCALE = "init_std"
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
SPECIAL_TOKENS_FILE, TOKENIZER_SETTINGS_FILE = "special_tokens_map.json", "tokenizer_config.json"
SETTINGS_FILES = (
    GENERATION_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_SETTINGS_FILE,
)  # beside config.json
MODEL_TYPE = "opt"
DEFAULT_VOCAB_SIZE = 50272
BOS_TOKEN_ID = 2  # OPT begins a text with </s>
SPECIAL_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}  # fmt: skip
GENERATION = {"bos_token_id": BOS_TOKEN_ID, "eos_token_id": 2, "pad_token_id": 1}


def to_hf_config(model: Mapping[str, Any], vocab_size: int, dtype: str) -> Dict[str, Any]:
    """The ``config.json`` of a model.

    Args:
        model: our settings by name, as in ``OPTConfig``.
        dtype: "float32", "float16" or "bfloat16".
    """
    word_dim = model["decoder_word_embed_dim"]
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": vocab_size,
        **{theirs: model[ours] for theirs, (ours, _) in FIELDS.items()},
        "word_embed_proj_dim": word_dim or model["decoder_embed_dim"],
        "do_layer_norm_before": not model["decoder_post_norm"],
        **FIXED,
        "bos_token_id": BOS_TOKEN_ID,
        "torch_dtype": dtype,
    }


def from_hf_config(config: Mapping[str, Any], source: str) -> Dict[str, Any]:
    """Our settings by name, from a ``config.json``.

    Raises:
        UserError: fields that our model cannot have, each with its value.
    """
    if "model_type" not in config:
        raise UserError(
            f"{source} must have the field `model_type`, but has not. Give an OPT model's folder."
        )
    problems = []
    if config["model_type"] != MODEL_TYPE:
        found = json_file.shown(config["model_type"])
        problems.append(f'`model_type` must be "opt", but is {found}')
    else:
        problems += [
            f"`{name}` must be {json_file.shown(value)}, but is {json_file.shown(config[name])}"
            for name, value in FIXED.items()
            if config.get(name, value) != value
        ]
        problems += _bad_numbers(config)
        if "quantization_config" in config:
            problems.append("`quantization_config` must be absent, but is there")
    if problems:
        raise UserError(
            f"In {source}: {'; '.join(problems)}. Only OPT models as released can be read."
        )
    settings = {
        ours: default if config.get(theirs) is None else config[theirs]
        for theirs, (ours, default) in FIELDS.items()
    }
    word_dim = config.get("word_embed_proj_dim")
    if word_dim == settings["decoder_embed_dim"]:
        word_dim = None
    settings["decoder_word_embed_dim"] = word_dim
    settings["decoder_post_norm"] = not config.get("do_layer_norm_before", True)
    return settings


def vocab_size_of(config: Mapping[str, Any], source: str) -> int:
    """Rows of the token embedding, which our dictionaries pad to a multiple.

    Args:
        config: as ``from_hf_config`` has looked through it.
    """
    size = config.get("vocab_size")
    size = DEFAULT_VOCAB_SIZE if size is None else size
    if size % DICTIONARY_MULTIPLE:
        raise UserError(
            f"In {source}: `vocab_size` must be a multiple of {DICTIONARY_MULTIPLE}, but is {size}. "
            f"Save the model again after resize_token_embeddings(pad_to_multiple_of={DICTIONARY_MULTIPLE})."
        )
    return size


def write_tokenizer_settings(folder: Path, longest_input: int) -> None:
    """With which settings ``GPT2Tokenizer`` encodes as OPT does; ``longest_input`` is in tokens."""
    json_file.write(folder / SPECIAL_TOKENS_FILE, SPECIAL_TOKENS)
    settings = {
        **SPECIAL_TOKENS,
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,  # OPT reads every text behind </s>
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": longest_input,
    }
    json_file.write(folder / TOKENIZER_SETTINGS_FILE, settings)


def write_generation_config(folder: Path) -> None:
    """Which tokens begin, end and pad a text, for Hugging Face's ``generate()``."""
    json_file.write(folder / GENERATION_FILE, {"_from_model_config": True, **GENERATION})


def _bad_numbers(config: Mapping[str, Any]) -> List[str]:
    """What is wrong with the numbers and switches that are there; null is as good as left out."""
    problems = []
    for name in (*WHOLE_NUMBERS, *PROBABILITIES, SCALE):
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            rule = "a number"
        elif name in WHOLE_NUMBERS and not (isinstance(value, int) and 1 <= value <= MAX_WHOLE):
            rule = f"a whole number from 1 to {MAX_WHOLE:,}"
        elif name in PROBABILITIES and not 0 <= value < 1:
            rule = "in [0, 1)"
        elif name == SCALE and not 0 < value <= sys.float_info.max:
            rule = "positive and finite"
        else:
            continue
        problems.append(f"`{name}` must be {rule}, but is {json_file.shown(value)}")
    if not isinstance(config.get("do_layer_norm_before", True), bool):
        found = json_file.shown(config["do_layer_norm_before"])
        problems.append(f"`do_layer_norm_before` must be true or false, but is {found}")
    return problems
