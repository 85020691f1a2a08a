"""``metaseq convert`` from each of metaseq's forms: every bit of weights and moments arrives."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.formats import metaseq_forms as forms
from tests.formats.folders import (
    VOCAB_SIZE,
    assert_same_tensors,
    model_tensors,
    run_convert,
    write_tokenizer,
)
from tests.opt_models import KINDS

LAYOUTS = [(parts, shards) for parts in (1, 2, 4) for shards in (1, 2, 3)]


def read_back(path: Path) -> dict[str, Any]:
    return torch.load(path / "checkpoint.pt", weights_only=True)


def assert_moments(state: dict[str, Any], expected: tuple[forms.Weights, forms.Weights]) -> None:
    names = list(state["model"])
    held = state["last_optimizer_state"]["state"]
    assert list(held) == list(range(len(names)))
    for key, moments in zip(("exp_avg", "exp_avg_sq"), expected):
        assert_same_tensors({n: held[i][key] for i, n in enumerate(names)}, moments)


@pytest.mark.parametrize(("parts", "shards"), LAYOUTS)
def test_every_layout(tmp_path: Path, parts: int, shards: int) -> None:
    whole = forms.weights()
    moments = forms.moments(whole)
    forms.write_set(tmp_path / "src", whole, parts, shards, moments)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    state = read_back(tmp_path / "ours")
    assert_same_tensors(state["model"], whole)
    assert_moments(state, moments)
    held = state["last_optimizer_state"]
    assert held["loss_scale"] == 4.0
    assert {float(entry["step"]) for entry in held["state"].values()} == {7.0}
    assert held["param_groups"][0]["betas"] == (0.9, 0.95)
    assert held["param_groups"][0]["params"] == list(range(len(whole)))
    assert state["optimizer_history"][-1]["num_updates"] == 7
    assert state["optimizer_history"][-1]["optimizer_name"] == "FairseqAdamW"
    assert state["cfg"]["model"]["decoder_max_positions"] == 40


def test_singleton_with_split_projections(tmp_path: Path) -> None:
    whole = {name: tensor.half() for name, tensor in forms.weights().items()}
    forms.write_set(tmp_path / "src", whole, stem="restored", fused=False)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "ours" / "checkpoint.pt"), whole)


@pytest.mark.parametrize("says_norm", [True, False])
def test_350m(tmp_path: Path, says_norm: bool) -> None:
    """Post-norm, 512-dim embeddings (here 16 of 32); newer cfgs do not have the option any more."""
    whole = forms.weights("350m")
    (path,) = forms.write_set(tmp_path / "src", whole, kind="350m", fused=False)
    if not says_norm:
        state = torch.load(path, weights_only=True)
        del state["cfg"]["model"].decoder_normalize_before
        torch.save(state, path)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "ours" / "checkpoint.pt"), whole)
    run_convert(tmp_path / "src", tmp_path / "hf", "--to", "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.config.do_layer_norm_before is False
    assert theirs.config.word_embed_proj_dim == KINDS["350m"]["decoder_word_embed_dim"]


def test_everything_in_one_flat_parameter(tmp_path: Path) -> None:
    """Small models are not wrapped layer by layer."""
    whole = forms.weights()
    moments = forms.moments(whole)
    forms.write_set(tmp_path / "src", whole, 2, 3, moments, one_root=True)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    state = read_back(tmp_path / "ours")
    assert_same_tensors(state["model"], whole)
    assert_moments(state, moments)


def test_whole_tensors_with_flat_moments(tmp_path: Path) -> None:
    """What Meta's reshard_fsdp merges: whole tensors, but moments still flat and padded."""
    whole = forms.weights()
    moments = forms.moments(whole)
    (path,) = forms.write_set(tmp_path / "src", whole)
    part = forms.fuse(whole)
    state = torch.load(path, weights_only=True)
    state["shard_metadata"] = forms.flatten(part, 3)[1][0]
    flat = [
        {key: torch.cat([m[key] for m in forms.flatten(forms.fuse(held), 3)[0]])
         for key in forms.flatten(part, 3)[0][0]}
        for held in moments
    ]  # fmt: skip
    assert len(flat[0]["flat_param_0"]) > sum(
        part[n].numel() for n in forms.flat_groups(part, False)[""]
    )
    state["last_optimizer_state"] = forms.optimizer_state(list(zip(*(m.values() for m in flat))))
    torch.save(state, path)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    read = read_back(tmp_path / "ours")
    assert_same_tensors(read["model"], whole)
    assert_moments(read, moments)


def test_drop_optimizer(tmp_path: Path) -> None:
    whole = forms.weights()
    forms.write_set(tmp_path / "src", whole, 2, 2, forms.moments(whole))
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq", "--drop-optimizer")
    state = read_back(tmp_path / "ours")
    assert_same_tensors(state["model"], whole)
    assert state["last_optimizer_state"] is None
    assert state["optimizer_history"][-1]["num_updates"] == 0


@pytest.mark.parametrize(
    "name", ["reshard.pt", "reshard-model_part-1.pt", "reshard-model_part-0.pt", "."]
)
def test_any_name_of_a_set_means_the_set(tmp_path: Path, name: str) -> None:
    whole = forms.weights()
    forms.write_set(tmp_path / "src", whole, 2)
    run_convert(tmp_path / "src" / name, tmp_path / "ours", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "ours" / "checkpoint.pt"), whole)


def test_named_file_counts_among_several(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in forms.weights().items()}
    forms.write_set(tmp_path / "src", forms.weights(), 2)
    forms.write_set(tmp_path / "src", other, 1, 2, stem="checkpoint_18")
    run_convert(tmp_path / "src" / "checkpoint_18.pt", tmp_path / "a", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "a" / "checkpoint.pt"), other)
    run_convert(tmp_path / "src", tmp_path / "b", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "b" / "checkpoint.pt"), forms.weights())


def test_known_extras_are_dropped(tmp_path: Path) -> None:
    whole = forms.weights()
    (path,) = forms.write_set(tmp_path / "src", whole)
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.output_projection.weight"] = whole[
        "decoder.embed_tokens.weight"
    ].clone()
    state["model"]["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    torch.save(state, path)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    assert_same_tensors(model_tensors(tmp_path / "ours" / "checkpoint.pt"), whole)


def test_copies_that_differ_by_rounding_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = forms.weights()
    paths = forms.write_set(tmp_path / "src", whole, 2)
    state = torch.load(paths[1], weights_only=True)
    state["model"]["decoder.layer_norm.bias"] += 1e-4
    torch.save(state, paths[1])
    with caplog.at_level(logging.WARNING):
        run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    assert (
        "`decoder.layer_norm.bias` of model part 1 differs from part 0's by 0.0001" in caplog.text
    )
    assert_same_tensors(model_tensors(tmp_path / "ours" / "checkpoint.pt"), whole)


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE, VOCAB_SIZE + 32])
def test_tokenizer_of_a_padded_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    """metaseq's files number the tokens; embeddings may be padded to 8 or to more."""
    forms.write_set(tmp_path / "src", forms.weights(vocab_size=vocab_size), 2)
    reference = write_tokenizer(tmp_path / "src")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "src" / name).rename(tmp_path / "src" / f"gpt2-{name}")
    (tmp_path / "src" / "dict.txt").write_text("50118 1\n")  # as in Meta's folders, of no use
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq")
    lines = (tmp_path / "ours" / "dict.txt").read_text().splitlines()
    assert len(lines) == vocab_size - 4
    ids = {line.split()[0]: number for number, line in enumerate(lines, start=4)}
    assert all(ids[token] == i for token, i in reference.get_vocab().items() if i >= 4)
    run_convert(tmp_path / "src", tmp_path / "hf", "--to", "hf")
    assert json.loads((tmp_path / "hf" / "vocab.json").read_text()) == reference.get_vocab()
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == vocab_size
    exported = load_file(tmp_path / "hf" / "model.safetensors")
    assert len(exported["model.decoder.embed_tokens.weight"]) == vocab_size


def test_dtype(tmp_path: Path) -> None:
    whole = forms.weights()
    forms.write_set(tmp_path / "src", whole, 2, 2)
    run_convert(tmp_path / "src", tmp_path / "ours", "--to", "fairseq", "--dtype", "bfloat16")
    found = model_tensors(tmp_path / "ours" / "checkpoint.pt")
    assert_same_tensors(found, {name: tensor.bfloat16() for name, tensor in whole.items()})
