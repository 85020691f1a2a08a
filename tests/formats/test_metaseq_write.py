"""``metaseq convert --to metaseq``: the files are what metaseq writes, and lead back bit for bit."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import OPTModel

from tests.fairseq_runs import train, write_data
from tests.formats import metaseq_forms as forms
from tests.formats.folders import assert_same_tensors, model_tensors, run_convert, write_hf
from tests.formats.test_metaseq_read import LAYOUTS
from tests.opt_models import KINDS, decoder, hf_config, tokens
from tests.opt_models import config as opt_config


def write_ours(folder: Path, whole: forms.Weights, with_moments: Any = None) -> Path:
    """A checkpoint of fairseq's, made through Hugging Face's form."""
    forms.write_set(folder / "seed", whole, with_moments=with_moments)
    run_convert(folder / "seed", folder / "ours", "--to", "fairseq")
    return folder / "ours"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A folder of fairseq's with the optimizer's state, and one without."""
    whole, made = forms.weights(), {}
    for with_optimizer in (True, False):
        folder = tmp_path_factory.mktemp("ours")
        made[with_optimizer] = write_ours(
            folder, whole, forms.moments(whole) if with_optimizer else None
        )
    return made


def layout(parts: int, shards: int) -> tuple[str, ...]:
    return ("--model-parallel-size", str(parts), "--num-shards", str(shards))


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal in structure, values and types, tensors bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert found == expected, where


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize(("parts", "shards"), LAYOUTS)
def test_fairseq_round_trip(
    tmp_path: Path, ours: dict[bool, Path], parts: int, shards: int, with_optimizer: bool
) -> None:
    source = ours[with_optimizer]
    run_convert(source, tmp_path / "theirs", "--to", "metaseq", *layout(parts, shards))
    assert len(list((tmp_path / "theirs").glob("reshard*.pt"))) == parts * shards
    run_convert(tmp_path / "theirs", tmp_path / "back", "--to", "fairseq")
    before, after = (
        torch.load(folder / "checkpoint.pt", weights_only=True)
        for folder in (source, tmp_path / "back")
    )
    for key in ("model", "last_optimizer_state", "optimizer_history"):
        assert_same(after[key], before[key], key)
    assert (before["last_optimizer_state"] is not None) == with_optimizer
    assert after["cfg"]["model"] == before["cfg"]["model"]
    assert (tmp_path / "back" / "dict.txt").read_text() == (source / "dict.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("parts", "shards"), [(1, 1), (2, 1), (4, 3), (1, 2)])
def test_hugging_face_round_trip(tmp_path: Path, parts: int, shards: int, kind: str) -> None:
    write_hf(tmp_path / "hf", kind)
    run_convert(tmp_path / "hf", tmp_path / "theirs", "--to", "metaseq", *layout(parts, shards))
    run_convert(tmp_path / "theirs", tmp_path / "back", "--to", "hf")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "back"))
    assert_same_tensors(after, before)
    for name in ("vocab.json", "merges.txt"):
        texts = [(tmp_path / folder / name).read_text() for folder in ("hf", "back")]
        parse = json.loads if name == "vocab.json" else str.split
        assert parse((tmp_path / "theirs" / f"gpt2-{name}").read_text()) == parse(texts[0])
        assert parse(texts[1]) == parse(texts[0])
    assert len((tmp_path / "theirs" / "dict.txt").read_text().splitlines()) == 288 - 4


@pytest.mark.parametrize(("parts", "shards"), LAYOUTS)
def test_files_are_those_of_the_hand_written_inverse(
    tmp_path: Path, ours: dict[bool, Path], parts: int, shards: int
) -> None:
    whole = forms.weights()
    moments = forms.moments(whole)
    expected = forms.write_set(tmp_path / "hand", whole, parts, shards, moments)
    run_convert(ours[True], tmp_path / "theirs", "--to", "metaseq", *layout(parts, shards))
    for path in expected:
        by_hand = torch.load(path, weights_only=True)
        written = torch.load(tmp_path / "theirs" / path.name, weights_only=True)
        for key in ("model", "last_optimizer_state", "optimizer_history"):
            assert_same(written[key], by_hand[key], f"{path.name}.{key}")
        assert written.keys() == by_hand.keys()
        if shards > 1:
            for entry in written["shard_metadata"]["param_metadata"]:
                entry["shared_param_info"] = []  # test_metaseq_fairscale.py looks at it
            assert_same(written["shard_metadata"], by_hand["shard_metadata"], "shard_metadata")
        named = written["cfg"]["model"]
        assert isinstance(named, argparse.Namespace)
        said = {n: v for n, v in vars(by_hand["cfg"]["model"]).items() if n in vars(named)}
        assert len(said) > 12
        said["max_target_positions"] = 40
        assert {name: vars(named)[name] for name in said} == {
            **said, "model_parallel_size": parts
        }  # fmt: skip


def test_from_one_layout_to_another(tmp_path: Path) -> None:
    whole = forms.weights()
    moments = forms.moments(whole)
    forms.write_set(tmp_path / "a", whole, 4, 3, moments)
    run_convert(tmp_path / "a", tmp_path / "b", "--to", "metaseq", *layout(2, 2))
    for path in forms.write_set(tmp_path / "c", whole, 2, 2, moments):
        found, expected = (
            torch.load(f / path.name, weights_only=True) for f in (tmp_path / "b", path.parent)
        )
        for key in ("model", "last_optimizer_state"):
            assert_same(found[key], expected[key], f"{path.name}.{key}")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_conversion_script_of_hugging_face_takes_it(tmp_path: Path, kind: str) -> None:
    """The steps of transformers' convert_opt_original_pytorch_checkpoint_to_pytorch.py."""
    write_hf(tmp_path / "hf", kind)
    run_convert(tmp_path / "hf", tmp_path / "theirs", "--to", "metaseq")
    held = torch.load(tmp_path / "theirs" / "reshard.pt", weights_only=True)["model"]
    held.pop("decoder.version")
    renames = {"project_in_dim": "project_in", "project_out_dim": "project_out"}
    for name in list(held):
        new = name.replace("decoder.layer_norm.", "decoder.final_layer_norm.")
        for theirs, hf in renames.items():
            new = new.replace(theirs, hf)
        held[new] = held.pop(name)
        if ".qkv_proj." in new:
            k, v, q = held.pop(new).chunk(3)
            for letter, rows in (("q", q), ("k", k), ("v", v)):
                held[new.replace("qkv_proj", f"{letter}_proj")] = rows
    shape = KINDS[kind]
    ours = decoder(vocab_size=288, **shape)
    model = OPTModel(hf_config(ours, opt_config(**shape))).eval()
    model.load_state_dict(held)
    ids = tokens(2, 20, 288)
    hidden = model(ids).last_hidden_state
    torch.testing.assert_close(hidden, ours(ids, features_only=True)[0], atol=2e-5, rtol=0)


def test_dtype_is_of_the_weights_and_not_of_the_moments(
    tmp_path: Path, ours: dict[bool, Path]
) -> None:
    run_convert(
        ours[True], tmp_path / "half", "--to", "metaseq", *layout(2, 2), "--dtype", "float16"
    )
    for path in (tmp_path / "half").glob("reshard*.pt"):
        state = torch.load(path, weights_only=True)
        assert {t.dtype for t in state["model"].values()} == {torch.float16}
        entries = state["last_optimizer_state"]["state"].values()
        assert {entry["exp_avg"].dtype for entry in entries} == {torch.float32}
        assert state["cfg"]["common"]["memory_efficient_fp16"] is True


def test_files_hold_no_more_than_their_pieces(tmp_path: Path, ours: dict[bool, Path]) -> None:
    run_convert(ours[False], tmp_path / "theirs", "--to", "metaseq", *layout(4, 1))
    for path in (tmp_path / "theirs").glob("reshard*.pt"):
        held = torch.load(path, weights_only=True)["model"]
        assert path.stat().st_size < sum(t.nbytes for t in held.values()) + 30_000


def test_overwrite(tmp_path: Path, ours: dict[bool, Path]) -> None:
    run_convert(ours[False], tmp_path / "theirs", "--to", "metaseq", *layout(2, 2))
    run_convert(ours[False], tmp_path / "theirs", "--to", "metaseq", "--overwrite")
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert [name for name in names if name.endswith(".pt")] == ["reshard.pt"]


@pytest.mark.slow
def test_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """A stock run, through metaseq's form and back, makes the same next updates."""
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    assert train(data, run, "--max-update", 3).status == 0
    path = run / "checkpoint_last.pt"
    run_convert(path, tmp_path / "theirs", "--to", "metaseq", *layout(2, 3))
    run_convert(tmp_path / "theirs", tmp_path / "back", "--to", "fairseq")
    ends = []
    for number, start in enumerate((path, tmp_path / "back" / "checkpoint.pt")):
        ended = train(data, tmp_path / f"run{number}", "--restore-file", start, "--max-update", 5,
                      "--reset-dataloader", "--reset-meters")  # fmt: skip
        assert ended.status == 0, ended.output
        ends.append(tmp_path / f"run{number}" / "checkpoint_last.pt")
    assert_same_tensors(model_tensors(ends[1]), model_tensors(ends[0]))
    states = [torch.load(end, weights_only=True) for end in ends]
    assert [s["optimizer_history"][-1]["num_updates"] for s in states] == [5, 5]
    assert_same(
        states[1]["last_optimizer_state"]["state"], states[0]["last_optimizer_state"]["state"]
    )
