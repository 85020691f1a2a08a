"""Model folders of both formats for the tests of conversion."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from metaseq_plugin.formats import convert
from tests.opt_models import KINDS, config, decoder, hf_twin

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
TEXT = ["the cat sat on the mat", "the dog ate the cat's hat", "a mat, a hat: 12 cats & dogs"] * 5
VOCAB_SIZE = 288  # 4 + 256 bytes + merges, padded by 5


def run_convert(*arguments: Any) -> None:
    """``metaseq convert ⟨arguments⟩``; user mistakes come out as ``UserError``."""
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    convert.run(parser.parse_args([str(argument) for argument in arguments]))


def write_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level BPE tokenizer of 283 tokens as ``vocab.json`` and ``merges.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 5,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.model.save(str(folder))
    return tokenizer


def write_hf(folder: Path, kind: str = "pre-norm", tokenizer: bool = True, **save: Any) -> Any:
    """A Hugging Face OPT folder as transformers itself saves it; the model."""
    shape = KINDS[kind]
    model = hf_twin(decoder(vocab_size=VOCAB_SIZE, **shape), config(**shape))
    model.save_pretrained(folder, **save)
    if tokenizer:
        write_tokenizer(folder)
    return model


def write_hf_bin(
    folder: Path, kind: str = "pre-norm", shards: int = 1, prefix: str = "model."
) -> Any:
    """The same with ``pytorch_model.bin`` as older versions saved it, the tied output included."""
    model = write_hf(folder, kind)
    (folder / "model.safetensors").unlink()
    state = {prefix + name.removeprefix("model."): t for name, t in model.state_dict().items()}
    state["lm_head.weight"] = state.pop(prefix + "lm_head.weight")
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return model
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(state.items())[number::shards])
        torch.save(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return model


def model_tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def assert_same_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
