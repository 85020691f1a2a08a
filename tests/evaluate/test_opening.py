"""Who is evaluated, from a command line: files in any form, a server, and options that do not go together."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate import endpoint
from metaseq_plugin.evaluate.opening import add_model_arguments, open_model, read_key
from metaseq_plugin.evaluate.requests import Pair, PairAnswer
from metaseq_plugin.hub import OPT
from tests.serve.live import write_model
from tests.serve.tiny import POSITIONS, tiny_opt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    return write_model(tiny_opt(made), made)


def opened(*words: Any) -> Any:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return open_model(parser.parse_args(list(map(str, words))))


def test_files(folder: Path) -> None:
    model = opened("--path", folder, "--device", "cpu", "--batch-tokens", 100)
    about = model.about
    assert about["path"] == about["checkpoint"] == str(folder)
    assert about["num_parameters"] == sum(
        parameter.numel() for parameter in OPT.from_pretrained(folder).model.parameters()
    )
    assert (about["dtype"], about["device"], about["longest"]) == ("float32", "cpu", POSITIONS)
    assert model.batch_tokens == 100
    ((_, answer),) = model.answer([Pair("the cat", " sat")])
    assert isinstance(answer, PairAnswer)


def test_a_fingerprint_is_of_what_the_files_hold(folder: Path, tmp_path: Path) -> None:
    first = opened("--path", folder).about["fingerprint"]
    opt = tiny_opt(tmp_path)
    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        copy.mkdir()
    assert opened("--path", write_model(opt, same)).about["fingerprint"] == first
    with torch.no_grad():
        opt.model.get_parameter("decoder.layers.0.self_attn_layer_norm.bias")[0] += 0.5
    assert opened("--path", write_model(opt, other)).about["fingerprint"] != first


def test_another_tokenizer_is_another_model(folder: Path, tmp_path: Path) -> None:
    """With it the same weights give other numbers, which must not be mixed with recorded ones."""
    opt = tiny_opt(tmp_path)
    assert opt.tokenizer is not None
    first = opened("--path", folder).about
    model, same, other = (tmp_path / name for name in ("model", "same", "other"))
    for made in (model, same, other):
        made.mkdir()
    write_model(opt, model)
    opt.tokenizer.save(same)
    opt.tokenizer.save(other)
    merges = (other / "merges.txt").read_text().splitlines(keepends=True)
    (other / "merges.txt").write_text("".join([*merges[:-2], *reversed(merges[-2:])]))
    assert opened("--path", model, "--tokenizer", same).about["tokenizer"] == first["tokenizer"]
    changed = opened("--path", model, "--tokenizer", other).about
    assert changed["fingerprint"] == first["fingerprint"]
    assert changed["tokenizer"] != first["tokenizer"]


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"^`--device` must be .* but is {name}. Set cpu.$"):
        opened("--path", folder, "--device", name)


def test_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []
    monkeypatch.setattr(endpoint, "EndpointModel", lambda *given: made.append(given))
    key = tmp_path / "key"
    key.write_text("# mine\nsecret\n")
    opened("--path", "http://127.0.0.1:6010", "--api-key-file", key, "--served-model", "b")
    opened("--path", "https://a.example/v1")
    assert made == [
        ("http://127.0.0.1:6010", "secret", "b"),
        ("https://a.example/v1", None, None),
    ]


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "a server's option": (("--path", "x", "--served-model", "a"), "`--served-model` must go with"),
    "a key": (("--path", "x", "--api-key-file", "key"), "`--api-key-file` must go with a server"),
    "a device": (("--path", "http://a", "--device", "cpu"), "`--device` must be left out"),
    "parts": (
        ("--path", "http://a", "--model-parallel-size", 2),
        "`--model-parallel-size` must be",
    ),
    "nothing there": (("--path", "no/such/model"), "must exist, but no/such/model does not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_are_refused(name: str) -> None:
    words, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        opened(*words)


def test_key_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`--api-key-file` must be a text file"):
        read_key(tmp_path / "none")
    for content in ("", "# only a remark\n", "schlüssel\n"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(UserError, match="`--api-key-file` must hold a key"):
            read_key(tmp_path / "key")
