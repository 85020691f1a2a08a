"""Files of metaseq's that cannot be converted: one sentence that names what is wrong, nothing written."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from tests.formats import metaseq_forms as forms
from tests.formats.folders import assert_same_tensors, model_tensors, run_convert

PART1 = "reshard-model_part-1.pt"
SHARD0, SHARD1 = "reshard-model_part-0-shard0.pt", "reshard-model_part-0-shard1.pt"

Spoil = Callable[[Path], Any]
BIAS = "decoder.layers.1.fc1.bias"
QKV = "decoder.layers.1.self_attn.qkv_proj.weight"


def edit(change: Callable[[dict[str, Any]], Any], name: str = "reshard.pt") -> Spoil:
    """Change what one file of the folder holds."""

    def spoil(folder: Path) -> None:
        state = torch.load(folder / name, weights_only=True)
        change(state)
        torch.save(state, folder / name)

    return spoil


def model(change: Callable[[dict[str, Any]], Any], name: str = "reshard.pt") -> Spoil:
    return edit(lambda state: change(state["model"]), name)


def setting(**values: Any) -> Spoil:
    return edit(lambda state: vars(state["cfg"]["model"]).update(values))


def without(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def renamed(old: str, new: str) -> Spoil:
    return lambda folder: (folder / old).rename(folder / new)


def two_checkpoints(folder: Path) -> None:
    (folder / "reshard.pt").rename(folder / "a.pt")
    (folder / "b.pt").touch()


def whole_tensors(held: forms.Weights) -> None:
    held.clear()
    held.update(forms.weights())


def metadata(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return edit(lambda s: change(s["shard_metadata"]["param_metadata"][1]["params"]["flat_param_0"]),
                SHARD0)  # fmt: skip


def refuse_without_touching(folder: Path, sentence: str, *options: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(UserError, match=sentence) as error:
        run_convert(folder, folder.with_name("new"), "--to", "fairseq", *options)
    assert "\n" not in str(error.value)
    assert sorted(folder.parent.rglob("*")) == before


# What is done to a good file of whole tensors, and what the sentence says.
WHOLE: dict[str, tuple[Spoil, str]] = {
    "no embedding": (model(lambda m: m.pop("decoder.embed_tokens.weight")), "`decoder.embed_tokens.weight` must be there, but is not"),
    "tensor missing": (model(lambda m: m.pop(BIAS)), f"reshard.pt lacks `{BIAS}`"),
    "tensor unknown": (model(lambda m: m.update({"decoder.layers.0.attn_ln.weight": torch.ones(32)})), "has the unknown `decoder.layers.0.attn_ln.weight`"),
    "tensor mis-shaped": (model(lambda m: m.update({"decoder.layers.1.fc2.bias": torch.ones(31)})), r"has `decoder.layers.1.fc2.bias` of shape \(31,\) instead of \(32,\)"),
    "tensor of integers": (model(lambda m: m.update({"decoder.layers.1.fc2.bias": torch.ones(32, dtype=torch.int8)})), "has `decoder.layers.1.fc2.bias` as torch.int8"),
    "no tensor": (model(lambda m: m.update({BIAS: None})), "must be a checkpoint whose entry model holds tensors"),
    "entry unknown": (edit(lambda s: s.update(best_loss=1.0)), "has the unknown entry `best_loss`"),
    "no settings": (edit(lambda s: s.pop("cfg")), "`decoder_layers` must be there, but is not"),
    "a layer more said": (setting(decoder_layers=4), "they say 4 at `decoder_layers` and its tensors 3"),
    "gelu": (setting(activation_fn="gelu"), '`activation_fn` must be "relu", but is "gelu"'),
    "scaled embedding": (setting(no_scale_embedding=False), "`no_scale_embedding` must be true, but is false"),
    "attention within documents": (setting(self_attn_doc_sep=2), "`self_attn_doc_sep` must be -1, but is 2"),
    "heads do not divide": (setting(decoder_attention_heads=5), r"must divide `--decoder-embed-dim` \(32\), but is 5"),
    "other output": (model(lambda m: m.update({"decoder.output_projection.weight": torch.ones(288, 32)})), "`decoder.output_projection.weight` must equal the token embedding"),
    "projection of two": (model(lambda m: m.update({QKV: m[QKV][:64].clone()})), f"`{QKV}` must hold the rows of k, v and q, but in .* has 64"),
    "projection twice": (model(lambda m: m.update({QKV.replace("qkv", "k"): torch.ones(32, 32)})), "must hold each tensor once"),
    "odd vocabulary": (model(lambda m: m.update({"decoder.embed_tokens.weight": torch.ones(283, 32)})), "must have a multiple of 8 rows, but in .* has 283"),
    "cut off": (lambda f: (f / "reshard.pt").write_bytes((f / "reshard.pt").read_bytes()[:999]), "reshard.pt must be a whole checkpoint"),
    "empty": (lambda f: (f / "reshard.pt").write_bytes(b""), "reshard.pt must be a whole checkpoint, but cannot be read as one .0 bytes"),
    "two checkpoints": (two_checkpoints, "must hold one checkpoint, but .* holds a.pt, b.pt"),
}  # fmt: skip

IN_PARTS: dict[str, tuple[Spoil, str]] = {
    "first part missing": (without("reshard-model_part-0.pt"), "lacks reshard-model_part-0.pt"),
    "middle part missing": (without(PART1), "lacks reshard-model_part-1.pt"),
    "last parts missing": (without("reshard-model_part-2.pt", "reshard-model_part-3.pt"), "must hold all 4 model parts, of which .*part-0.pt is one, but holds 2"),
    "a part of a larger model": (model(lambda m: m.update({BIAS: torch.ones(40)}), PART1), rf"part-1.pt has `{BIAS}` of shape \(40,\) instead of \(20,\)"),
    "a part of another vocabulary": (model(lambda m: m.update({"decoder.embed_tokens.weight": torch.ones(80, 32)}), PART1), r"part-1.pt has `decoder.embed_tokens.weight` of shape \(80, 32\)"),
    "a part without a tensor": (model(lambda m: m.pop(BIAS), PART1), f"part-1.pt lacks `{BIAS}`"),
    "a part with another": (model(lambda m: m.update(more=torch.ones(1)), PART1), "part-1.pt has the unknown `more`"),
    "a part of another model": (model(lambda m: m["decoder.layer_norm.bias"].add_(1), PART1), "`decoder.layer_norm.bias` must be the same in all model parts, but part 1 differs"),
    "a part of another data type": (model(lambda m: m.update({BIAS: m[BIAS].half()}), PART1), f"`{BIAS}` must have one data type in all model parts, but has torch.float16 and torch.float32"),
    "mixed suffixes": (renamed(PART1, "reshard-model_part-1-shard0.pt"), "which are of two"),
}  # fmt: skip

IN_SHARDS: dict[str, tuple[Spoil, str]] = {
    "first shard missing": (without(SHARD0), "lacks reshard-model_part-0-shard0.pt"),
    "last shards missing": (without(*(f"reshard-model_part-{p}-shard2.pt" for p in (0, 1))), "`flat_param_0` must have 6,016 elements in all shards together, but in .* has 4,012"),
    "no description": (edit(lambda s: s.pop("shard_metadata"), SHARD1), "shard1.pt has no `shard_metadata`"),
    "description of nothing": (edit(lambda s: s.update(shard_metadata={"param_metadata": [{}]}), SHARD0), "`shard_metadata` must describe the flattened parameters"),
    "shapes do not fit": (metadata(lambda d: d.update(numels=[1] * len(d["numels"]))), "`numels` and `shapes` differ"),
    "padding does not fit": (metadata(lambda d: d.update(padding=5)), "elements in all shards together"),
    "shards of two runs": (metadata(lambda d: d.update(names=d["names"][::-1], shapes=d["shapes"][::-1], numels=d["numels"][::-1])), "is another in each"),
    "flat parameter missing": (model(lambda m: m.pop("decoder.layers.1.flat_param_0"), SHARD1), "`decoder.layers.1.flat_param_0` is missing"),
    "flat parameter unknown": (model(lambda m: m.update(more=torch.ones(1)), SHARD1), "`more` is unknown"),
    "flat parameter of another data type": (model(lambda m: m.update(flat_param_0=m["flat_param_0"].half()), SHARD1), "`flat_param_0` must be flat and of one data type in all shards"),
    "whole tensors": (model(whole_tensors, SHARD0), "must hold flattened parameters"),
}  # fmt: skip

OPTIMIZER: dict[str, tuple[Spoil, str]] = {
    "16-bit moments": (edit(lambda s: s["last_optimizer_state"]["state"][1].update(exp_avg_scale=1.0), SHARD0), "`exp_avg_scale` is unknown"),
    "no square": (edit(lambda s: s["last_optimizer_state"]["state"][1].pop("exp_avg_sq"), SHARD0), "`exp_avg_sq` is missing"),
    "entry unknown": (edit(lambda s: s["last_optimizer_state"].update(master=1), SHARD0), "`master` is unknown"),
    "two groups": (edit(lambda s: s["last_optimizer_state"]["param_groups"].append({}), SHARD0), "there are 2 parameter groups"),
    "other number of updates": (edit(lambda s: s["last_optimizer_state"]["state"][2].update(step=9), SHARD1), "the number of updates is missing or differs"),
    "other length": (edit(lambda s: s["last_optimizer_state"]["state"][2].update(exp_avg=torch.ones(9)), SHARD1), "is of another length than the parameter"),
    "fewer tensors": (edit(lambda s: s["last_optimizer_state"]["state"].pop(2), SHARD0), "its 3 tensors are not those"),
    "in one shard only": (edit(lambda s: s.pop("last_optimizer_state"), SHARD1), "only some files of the set hold it"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, whole = tmp_path_factory.mktemp("good"), forms.weights()
    forms.write_set(folder / "whole", whole)
    forms.write_set(folder / "parts", whole, 4)
    forms.write_set(folder / "shards", whole, 2, 3, forms.moments(whole))
    return {name: folder / name for name in ("whole", "parts", "shards")}


def spoiled(good: Path, tmp_path: Path, spoil: Spoil) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    spoil(folder)
    return folder


@pytest.mark.parametrize("name", WHOLE)
def test_whole_file_refused(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    spoil, sentence = WHOLE[name]
    refuse_without_touching(spoiled(good["whole"], tmp_path, spoil), sentence)


@pytest.mark.parametrize("name", IN_PARTS)
def test_parts_refused(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    spoil, sentence = IN_PARTS[name]
    refuse_without_touching(spoiled(good["parts"], tmp_path, spoil), sentence)


@pytest.mark.parametrize("name", IN_SHARDS)
def test_shards_refused(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    spoil, sentence = IN_SHARDS[name]
    refuse_without_touching(spoiled(good["shards"], tmp_path, spoil), sentence)


@pytest.mark.parametrize("name", OPTIMIZER)
def test_optimizer_refused_or_dropped(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    spoil, sentence = OPTIMIZER[name]
    folder = spoiled(good["shards"], tmp_path, spoil)
    refuse_without_touching(folder, f"{sentence}.*Set --drop-optimizer")
    run_convert(folder, tmp_path / "new", "--to", "fairseq", "--drop-optimizer")
    assert_same_tensors(model_tensors(tmp_path / "new" / "checkpoint.pt"), forms.weights())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda held: held["param_groups"].append({"params": []}), "there are 2 parameter groups"),
        (lambda held: held.update(master_weights=[]), "`master_weights` is unknown"),
        (lambda held: held["state"].pop(3), "tensors are not those"),
        (lambda held: held["state"][3].update(step=torch.tensor(1.0)), "number of updates differs"),
    ],
)
def test_our_optimizer_that_metaseq_cannot_have(
    good: dict[str, Path], tmp_path: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    run_convert(good["shards"], tmp_path / "ours", "--to", "fairseq")
    edit(lambda state: change(state["last_optimizer_state"]), "checkpoint.pt")(tmp_path / "ours")
    with pytest.raises(UserError, match=f"{sentence}.*Set --drop-optimizer"):
        run_convert(tmp_path / "ours", tmp_path / "new", "--to", "metaseq")
    run_convert(tmp_path / "ours", tmp_path / "new", "--to", "metaseq", "--drop-optimizer")
    assert "last_optimizer_state" not in torch.load(tmp_path / "new" / "reshard.pt")


def test_vocabulary_that_parts_do_not_divide(good: dict[str, Path], tmp_path: Path) -> None:
    whole = forms.weights(vocab_size=40 + 8 * 32)  # 296, which 16 does not divide
    forms.write_set(tmp_path / "src", whole)
    edit(lambda s: vars(s["cfg"]["model"]).update(decoder_attention_heads=16))(tmp_path / "src")
    with pytest.raises(
        UserError, match=r"must divide dim 0 of decoder.embed_tokens.weight \(296\)"
    ):
        run_convert(tmp_path / "src", tmp_path / "new", "--to", "metaseq",
                    "--model-parallel-size", "16")  # fmt: skip
    assert not list(tmp_path.glob("new*"))


class Runs:
    """What a malicious file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickle_that_runs_something_is_refused(good: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "ran"
    folder = spoiled(
        good["parts"], tmp_path, edit(lambda s: s["extra_state"].update(x=Runs(path)), PART1)
    )
    refuse_without_touching(
        folder, r"part-1.pt must hold .* asks for posix.mkdir, .* --trust-pickle"
    )
    assert not path.exists()


def test_trusted_pickle_with_classes_that_are_not_installed(
    good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """metaseq's loader state and enumerations are classes of metaseq's."""
    named = "metaseq.data.iterators"
    module: Any = ModuleType(named)
    for name in ("LockingArray", "Choice"):
        kind = type(name, (), {"__module__": named, "__qualname__": name})
        setattr(module, name, kind)
    module.Choice.__init__ = lambda self, value: setattr(self, "value", value)
    module.Choice.__reduce__ = lambda self: (module.Choice, (self.value,))
    cache = module.LockingArray()
    cache.sizes = [1, 2]

    def change(state: dict[str, Any]) -> None:
        state["extra_state"]["train_iterator"]["tokenization_cache"] = cache
        state["cfg"]["model"].activation_fn = module.Choice("relu")

    with monkeypatch.context() as patched:
        for name in ("metaseq", "metaseq.data", named):
            patched.setitem(sys.modules, name, module)
        folder = spoiled(good["whole"], tmp_path, edit(change))
    refuse_without_touching(
        folder, "metaseq.data.iterators.Choice, metaseq.data.iterators.LockingArray, and loading"
    )
    run_convert(folder, tmp_path / "new", "--to", "fairseq", "--trust-pickle")
    assert_same_tensors(model_tensors(tmp_path / "new" / "checkpoint.pt"), forms.weights())
