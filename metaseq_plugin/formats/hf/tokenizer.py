"""What Hugging Face wants beside a model's tokenizer: special tokens, how to encode, how to generate."""

from pathlib import Path

from metaseq_plugin.formats.hf.config import GENERATION
from metaseq_plugin.storage import json_file

SPECIAL_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}  # fmt: skip


def write_tokenizer_settings(folder: Path, longest_input: int) -> None:
    """With which settings ``GPT2Tokenizer`` encodes as OPT does; ``longest_input`` is in tokens."""
    json_file.write(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    settings = {
        **SPECIAL_TOKENS,
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,  # OPT reads every text behind </s>
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": longest_input,
    }
    json_file.write(folder / "tokenizer_config.json", settings)


def write_generation_config(folder: Path) -> None:
    """Which tokens begin, end and pad a text, for Hugging Face's ``generate()``."""
    json_file.write(folder / "generation_config.json", {"_from_model_config": True, **GENERATION})
