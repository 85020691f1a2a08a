"""Wrong uses of ``metaseq convert``: one sentence that names what is wrong, and nothing half-written."""

import json
import shutil
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from metaseq_plugin import cli
from metaseq_plugin.compat.errors import UserError
from tests.formats.folders import run_convert, write_hf, write_hf_bin


class Made(NamedTuple):
    """A good Hugging Face folder and the good checkpoint made of it."""

    hf: Path
    ours: Path

    @property
    def checkpoint(self) -> Path:
        return self.ours / "checkpoint.pt"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_hf(folder / "hf")
    run_convert(folder / "hf", folder / "ours", "--to", "fairseq")
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Made:
    """A copy for the test to spoil."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Made(tmp_path / "hf", tmp_path / "ours")


def config_field(name: str, value: Any) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        path = made.hf / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return change


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        path = made.hf / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        edit(tensors)
        save_file(tensors, path)

    return change


def state(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        content = torch.load(made.checkpoint, weights_only=True)
        edit(content)
        torch.save(content, made.checkpoint)

    return change


def content(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        path = made.ours / name if name == "checkpoint.pt" else made.hf / name
        path.write_bytes(edit(path.read_bytes()))

    return change


def delete(*names: str) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        for name in names:
            (made.hf / name).unlink()

    return change


def missing_shard(made: Made) -> None:
    write_hf_bin(made.hf, shards=2)
    (made.hf / "pytorch_model-00002-of-00002.bin").unlink()


def unlisted_tensor(made: Made) -> None:
    write_hf_bin(made.hf, shards=2)
    path = made.hf / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.decoder.layers.0.fc1.bias"]
    path.write_text(json.dumps(index))


def vocab(edit: Callable[[dict[str, int]], Any]) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        path = made.hf / "vocab.json"
        ids = json.loads(path.read_text())
        edit(ids)
        path.write_text(json.dumps(ids))

    return change


def smaller_dictionary(made: Made) -> None:
    (made.ours / "dict.txt").write_text("a 1\n")


def reversed_dictionary(made: Made) -> None:
    path = made.ours / "dict.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


Q = "model.decoder.layers.1.self_attn.q_proj.weight"
OURS_Q = "decoder.layers.1.self_attn.q_proj.weight"
DIES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "text": lambda raw: b"these are no weights",
}

# What is done to a good Hugging Face folder, and what the sentence says.
TO_FAIRSEQ: dict[str, tuple[Callable[[Made], None], str]] = {
    "gelu": (config_field("activation_function", "gelu"), '`activation_function` must be "relu", but is "gelu"'),
    "no biases": (config_field("enable_bias", False), "`enable_bias` must be true, but is false"),
    "plain norms": (config_field("layer_norm_elementwise_affine", False), "`layer_norm_elementwise_affine` must be true, but is false"),
    "untied": (config_field("tie_word_embeddings", False), "`tie_word_embeddings` must be true, but is false"),
    "no final norm": (config_field("_remove_final_layer_norm", True), "`_remove_final_layer_norm` must be false, but is true"),
    "layerdrop": (config_field("layerdrop", 0.1), "`layerdrop` must be 0.0, but is 0.1"),
    "other padding": (config_field("pad_token_id", 0), "`pad_token_id` must be 1, but is 0"),
    "other end": (config_field("eos_token_id", 50256), "`eos_token_id` must be 2, but is 50256"),
    "other model": (config_field("model_type", "gpt2"), '`model_type` must be "opt", but is "gpt2"'),
    "quantized": (config_field("quantization_config", {"bits": 4}), "`quantization_config` must be absent"),
    "layers in words": (config_field("num_hidden_layers", "three"), '`num_hidden_layers` must be a number, but is "three"'),
    "heads do not divide": (config_field("num_attention_heads", 5), r"must divide `--decoder-embed-dim` \(32\), but is 5"),
    "odd vocabulary": (config_field("vocab_size", 283), "`vocab_size` must be a multiple of 8, but is 283"),
    "more layers said": (config_field("num_hidden_layers", 4), "lacks `decoder.layers.3.fc1.bias`"),
    "fewer layers said": (config_field("num_hidden_layers", 2), "has the unknown `decoder.layers.2.fc1.bias`"),
    "a billion layers": (config_field("num_hidden_layers", 10**9), "`num_hidden_layers` must be of the tensors' size, but is 1,000,000,000 where none is above 288"),
    "a billion tokens": (config_field("vocab_size", 10**9), "`vocab_size` must be of the tensors' size, but is 1,000,000,000"),
    "positions beyond numbers": (config_field("max_position_embeddings", 2**62), "`max_position_embeddings` must be a whole number from 1 to 2,147,483,647, but is 4611686018427387904"),
    "no heads": (config_field("num_attention_heads", 0), "`num_attention_heads` must be a whole number from 1 to 2,147,483,647, but is 0"),
    "dropout not a number": (config_field("dropout", float("nan")), r"`dropout` must be in \[0, 1\), but is NaN"),
    "endless weights": (config_field("init_std", float("inf")), "`init_std` must be positive and finite, but is Infinity"),
    "config cut off": (content("config.json", lambda raw: raw[:40]), "config.json must be a complete, readable .json file"),
    "config a list": (content("config.json", lambda raw: b"[]"), "config.json must hold a JSON object, but holds a list"),
    "no config": (delete("config.json"), "must be a Hugging Face folder with config.json or hold a checkpoint"),
    "no weights": (delete("model.safetensors"), "must hold model.safetensors or pytorch_model.bin"),
    "tensor missing": (weights(lambda t: t.pop(Q)), f"lacks `{OURS_Q}`"),
    "tensor extra": (weights(lambda t: t.update({"score.weight": torch.ones(2)})), "has the unknown `score.weight`"),
    "tensor mis-shaped": (weights(lambda t: t.update({Q: t[Q][:-1].clone()})), rf"has `{OURS_Q}` of shape \(31, 32\) instead of \(32, 32\)"),
    "tensor of integers": (weights(lambda t: t.update({Q: t[Q].to(torch.int8)})), f"has `{OURS_Q}` as torch.int8"),
    "own output": (weights(lambda t: t.update({"lm_head.weight": torch.ones(288, 32)})), "`lm_head.weight` must equal the token embedding"),
    "two names": (weights(lambda t: t.update({Q.removeprefix("model."): t[Q].clone()})), f"holds `{Q}|{OURS_Q}` under two names"),
    **{f"safetensors {how}": (content("model.safetensors", cut), "model.safetensors must") for how, cut in DIES.items()},
    "shard missing": (missing_shard, "pytorch_model-00002-of-00002.bin, but it does not exist"),
    "tensor unlisted": (unlisted_tensor, "must say which file holds `model.decoder.layers.0.fc1.bias`"),
    "tokenizer too large": (vocab(lambda ids: ids.update(late=300)), "ids must be below the model's vocabulary of 288, but `late` has 300"),
    "tokenizer of GPT-2": (vocab(lambda ids: ids.update({"<s>": 9, "!": 0})), "vocab.json' must start with <s>, <pad>, </s>, <unk> at ids 0 to 3"),
    "tokenizer with doubles": (vocab(lambda ids: ids.update(again=50)), "must give each id to one token, but gives 50"),
}  # fmt: skip

TO_HF: dict[str, tuple[Callable[[Made], None], str]] = {
    **{f"checkpoint {how}": (content("checkpoint.pt", cut), "checkpoint.pt must") for how, cut in DIES.items()},
    "only weights": (state(lambda s: s.pop("model")), "must be a fairseq checkpoint with the keys cfg and model"),
    "no settings": (state(lambda s: s.pop("cfg")), "must be a checkpoint of --arch opt"),
    "other model": (state(lambda s: s["cfg"]["model"].update(_name="lstm_lm")), "is of lstm_lm"),
    "no embedding": (state(lambda s: s["model"].pop("decoder.embed_tokens.weight")), "lacks `decoder.embed_tokens.weight`"),
    "a billion layers": (state(lambda s: s["cfg"]["model"].update(decoder_layers=10**9)), "they say 1000000000 at `decoder_layers` and its tensors 3"),
    "a wide layer": (state(lambda s: s["cfg"]["model"].update(decoder_ffn_embed_dim=10**15)), "they say 1000000000000000 at `decoder_ffn_embed_dim` and its tensors 80"),
    "one value shown often": (state(lambda s: s["model"].update({OURS_Q: torch.ones(1).expand(32, 32)})), r"all of their elements, but holds one of shape \(32, 32\)"),
    "tensor missing": (state(lambda s: s["model"].pop(OURS_Q)), f"lacks `{OURS_Q}`"),
    "tensor extra": (state(lambda s: s["model"].update(more=torch.ones(1))), "has the unknown `more`"),
    "tensor mis-shaped": (state(lambda s: s["model"].update({OURS_Q: torch.ones(3)})), rf"has `{OURS_Q}` of shape \(3,\)"),
    "dictionary of another size": (smaller_dictionary, "must give the model's 288 types, but .* gives 8"),
    "dictionary of another order": (reversed_dictionary, "dict.txt must number tokens as vocab.json does"),
}  # fmt: skip


@pytest.mark.parametrize("name", TO_FAIRSEQ)
def test_hugging_face_folder_refused(made: Made, tmp_path: Path, name: str) -> None:
    spoil, sentence = TO_FAIRSEQ[name]
    spoil(made)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence) as error:
        run_convert(made.hf, tmp_path / "new", "--to", "fairseq")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", TO_HF)
def test_checkpoint_refused(made: Made, tmp_path: Path, name: str) -> None:
    spoil, sentence = TO_HF[name]
    spoil(made)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence) as error:
        run_convert(made.ours, tmp_path / "new", "--to", "hf")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


USES: dict[str, tuple[Callable[[Made], tuple], str]] = {
    "SRC missing": (lambda m: ("nowhere", "new", "--to", "hf"), "The model must exist, but nowhere does not"),
    "SRC already hf": (lambda m: (m.hf, "new", "--to", "hf"), "is of hf already. Set --to fairseq or --to metaseq"),
    "SRC already fairseq": (lambda m: (m.checkpoint, "new", "--to", "fairseq"), "is of fairseq already. Set --to hf or --to metaseq"),
    "DST exists": (lambda m: (m.hf, m.ours, "--to", "fairseq"), "DST must not exist yet, but .* --overwrite"),
    "DST is SRC": (lambda m: (m.hf, m.hf, "--to", "fairseq", "--overwrite"), "DST must not be SRC"),
    "DST holds SRC": (lambda m: (m.hf, m.hf.parent, "--to", "fairseq", "--overwrite"), "DST must not be SRC or a folder around it"),
    "DST is a file": (lambda m: (m.hf, m.checkpoint, "--to", "fairseq", "--overwrite"), "DST must be a folder to make"),
    "DST under a file": (lambda m: (m.hf, m.checkpoint / "x", "--to", "fairseq"), "DST must be in a folder that can be written"),
    "no data": (lambda m: (m.ours, "new", "--to", "hf", "--data", "nowhere"), "`--data` must be a folder"),
    "data without dictionary": (lambda m: (m.ours, "new", "--to", "hf", "--data", m.hf), "must hold dict.txt"),
    "size in words": (lambda m: (m.ours, "new", "--to", "hf", "--max-shard-size", "big"), "`--max-shard-size` must be a size"),
    "size of nothing": (lambda m: (m.ours, "new", "--to", "hf", "--max-shard-size", "0"), "`--max-shard-size` must be a size"),
    "parts for fairseq": (lambda m: (m.hf, "new", "--to", "fairseq", "--model-parallel-size", "2"), "`--model-parallel-size` must come with --to metaseq"),
    "shards for hf": (lambda m: (m.ours, "new", "--to", "hf", "--num-shards", "2"), "`--num-shards` must come with --to metaseq"),
    "no parts": (lambda m: (m.ours, "new", "--to", "metaseq", "--model-parallel-size", "0"), "`--model-parallel-size` must be at least 1"),
    "heads do not divide": (lambda m: (m.ours, "new", "--to", "metaseq", "--model-parallel-size", "3"), "must divide the heads .4., but is 3. Set one of 1, 2, 4"),
    "size for fairseq": (lambda m: (m.hf, "new", "--to", "fairseq", "--max-shard-size", "1GB"), "`--max-shard-size` must come with --to hf"),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_use_refused(
    made: Made, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, sentence = USES[name]
    with pytest.raises(UserError, match=sentence):
        run_convert(*arguments(made))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "ours"]


def test_overwrite_deletes_no_other_folder(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="`--overwrite` must replace a converted model"):
        run_convert(made.hf, tmp_path / "mine", "--to", "fairseq", "--overwrite")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_weights_too_large_for_dtype(made: Made, tmp_path: Path) -> None:
    weights(lambda t: t[Q].mul_(1e6))(made)
    with pytest.raises(
        UserError, match=f"`--dtype` must hold every weight, but `{OURS_Q}` reaches"
    ):
        run_convert(made.hf, tmp_path / "new", "--to", "fairseq", "--dtype", "float16")
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("name", [Q, "model.decoder.embed_tokens.weight"])
@pytest.mark.parametrize("number", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite(made: Made, tmp_path: Path, name: str, number: float) -> None:
    """Also of the embedding, whose second copy in older files then equals nothing."""
    write_hf_bin(made.hf)
    path = made.hf / "pytorch_model.bin"
    held = torch.load(path)
    for key in {name, "lm_head.weight"} if "embed" in name else {name}:
        held[key][0, 0] = number
    torch.save(held, path)
    sentence = f"`{name.removeprefix('model.')}` in {made.hf} holds {abs(number)}"
    with pytest.raises(UserError, match=sentence):
        run_convert(made.hf, tmp_path / "new", "--to", "fairseq")
    assert not list(tmp_path.glob("new*"))


def test_parts_without_manifest(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"model": {}, "cfg": {}}, tmp_path / "run" / "checkpoint_last-shard0.pt")
    with pytest.raises(UserError, match=r"the manifest checkpoint_last\.manifest\.json is missing"):
        run_convert(tmp_path / "run", tmp_path / "new", "--to", "hf")


def test_command_prints_one_sentence_and_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SUBCOMMANDS", {"convert": cli.SUBCOMMANDS["convert"]})
    assert cli.main(["convert", str(tmp_path / "none"), str(tmp_path / "new"), "--to", "hf"]) == 2
    assert capsys.readouterr().err.startswith("metaseq convert: error: The model must exist, but")


def test_only_what_was_made_here_is_deleted(made: Made, tmp_path: Path) -> None:
    """Not folders beside DST that are called as a temporary one might be, nor the user's files in DST."""
    for name in ("own.partial", "own.old", "own/notes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="DST must not exist yet"):
        run_convert(made.hf, tmp_path / "own", "--to", "fairseq")
    shutil.rmtree(tmp_path / "own")
    run_convert(made.hf, tmp_path / "own", "--to", "fairseq")
    run_convert(made.hf, tmp_path / "own", "--to", "fairseq", "--overwrite")
    (tmp_path / "own" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine\.txt\. Move that elsewhere"):
        run_convert(made.hf, tmp_path / "own", "--to", "fairseq", "--overwrite")
    for name in ("own.partial", "own.old", "own"):
        assert (tmp_path / name / "mine.txt").read_text() == "mine"
    names = ["hf", "ours", "own", "own.old", "own.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
