"""``--arch`` and the dimensions: what is printed, what a checkpoint gives, and what is refused."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.compat.door import suggestions
from metaseq_plugin.sizes import SIZES, flags_of
from tests.fairseq_runs import TINY, Ended, run_fairseq, train, write_data
from tests.formats.folders import run_convert

SHAPE = ("--decoder-layers", "--decoder-embed-dim", "--decoder-attention-heads", "--arch")
FLAGS = "--arch opt --decoder-layers 2 --decoder-embed-dim 16 --decoder-attention-heads 2"


def without(options: Any, *names: str) -> list[Any]:
    """``options`` without those of ``names`` and their values."""
    kept = list(options)
    for name in names:
        place = kept.index(name)
        del kept[place : place + 2]
    return kept


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and ``run``."""
    folder = tmp_path_factory.mktemp("arch")
    data = write_data(folder / "data")
    ended = train(data, folder / "run", "--max-update", 2, "--decoder-ffn-embed-dim", 40)
    assert ended.status == 0, ended.output
    return folder


def untold(data: Path, save_dir: Path, *options: Any) -> Ended:
    """``fairseq-train`` without a word of the architecture, but for ``options``."""
    save_dir.mkdir(exist_ok=True)
    return run_fairseq(
        "train", data, *without(TINY, *SHAPE), "--criterion", "chunked_cross_entropy",
        "--optimizer", "adamw", "--lr", 0.01, "--save-dir", save_dir, *options, log_dir=save_dir,
    )  # fmt: skip


def saved_model(save_dir: Path) -> Any:
    state = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)
    return state["cfg"]["model"]


DIMENSIONS = {"decoder_layers": 2, "decoder_embed_dim": 16, "decoder_attention_heads": 2,
              "decoder_ffn_embed_dim": 40, "decoder_max_positions": 2048}  # fmt: skip


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file", "--save-dir"])
def test_the_checkpoint_gives_what_is_left_out(run: Path, tmp_path: Path, option: str) -> None:
    save_dir, given = tmp_path / "run", [option, run / "run" / "checkpoint_last.pt"]
    if option == "--save-dir":
        shutil.copytree(run / "run", save_dir)
        given = []
    ended = untold(run / "data", save_dir, "--max-update", 3, *given)
    assert ended.status == 0, ended.output
    assert saved_model(save_dir).items() >= {**DIMENSIONS, "_name": "opt"}.items()
    assert f": {FLAGS} --decoder-ffn-embed-dim 40\n" in ended.output


def test_nothing_to_take_it_from(run: Path, tmp_path: Path) -> None:
    for given, found in (
        ((), "neither is given"),
        (("--finetune-from-model", tmp_path / "none.pt"), "none.pt does not exist"),
    ):
        ended = untold(run / "data", tmp_path / "new", *given)
        assert (ended.status, "Traceback" in ended.output) == (2, False), ended.output
        assert "`--arch` must be given, or a checkpoint to take it from" in ended.last_line
        assert found in ended.last_line


# What is typed beside the checkpoint -> how the sentence names it.
OTHERS = {
    "heads, which no shape shows": (("--decoder-attention-heads", 4), "--decoder-attention-heads 4 instead of 2"),
    "layers": (("--decoder-layers", 3), "--decoder-layers 3 instead of 2"),
    "positions": (("--decoder-max-positions", 64), "--decoder-max-positions 64 instead of 2048"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_other_dimensions_are_refused_with_the_right_flags(
    run: Path, tmp_path: Path, name: str, option: str
) -> None:
    typed, others = OTHERS[name]
    checkpoint = run / "run" / "checkpoint_last.pt"
    for start in (untold, train):
        arch = () if start is untold else ("--decoder-ffn-embed-dim", 40)
        ended = start(run / "data", tmp_path / "run", option, checkpoint, *arch, *typed)
        assert (ended.status, "Traceback" in ended.output) == (2, False), ended.output
        assert f", but has {others}. Set {FLAGS} --decoder-ffn-embed-dim 40, and" in ended.last_line


def test_what_convert_prints_trains(run: Path, tmp_path: Path, capsys: Any) -> None:
    run_convert(run / "run", tmp_path / "hf", "--to", "hf")
    assert "flags" not in capsys.readouterr().out
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    (flags,) = re.findall(r"^flags      (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert flags == f"{FLAGS} --decoder-ffn-embed-dim 40"
    ended = untold(
        run / "data", tmp_path / "run", "--finetune-from-model", tmp_path / "ours" / "checkpoint.pt",
        *flags.split(), "--max-update", 1,
    )  # fmt: skip
    assert ended.status == 0, ended.output


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_its_name(size: str) -> None:
    assert flags_of({"_name": f"opt_{size}"}) == ["--arch", f"opt_{size}"]


def test_flags_of_what_is_no_size() -> None:
    settings = {"_name": "opt_350m", "decoder_layers": 3, "decoder_max_positions": 512}
    assert " ".join(flags_of(settings)) == (
        "--arch opt --decoder-layers 3 --decoder-embed-dim 1024 --decoder-attention-heads 16 "
        "--decoder-word-embed-dim 512 --decoder-post-norm --decoder-max-positions 512"
    )
    longer = {"_name": "opt_125m", "decoder_max_positions": 4096}
    assert flags_of(longer) == ["--arch", "opt_125m", "--decoder-max-positions", "4096"]


@pytest.mark.parametrize("typed", ["opt_9b", "OPT-1.3B", "125m", "opt_13B"])
def test_all_sizes_are_suggested_in_order(run: Path, tmp_path: Path, typed: str) -> None:
    ended = train(run / "data", tmp_path, "--arch", typed)
    assert ended.status == 2
    names = ", ".join(["opt", *(f"opt_{size}" for size in SIZES)])
    assert f"but is {typed}. Set for example {names}." in ended.last_line


def test_large_families_are_not_listed() -> None:
    many = [f"big_{number}" for number in range(20)]
    assert set(suggestions("big_13", many)) < set(many)
    assert suggestions("small", many) == many[:8]
