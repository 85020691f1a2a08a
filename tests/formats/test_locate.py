"""What a path of a model means, by names alone: the files need hold nothing."""

from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.locate import grid_of, is_hf, locate

RUN = ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint1.pt")
SHARDS = ("checkpoint_last-shard0.pt", "checkpoint_last-shard1.pt")
MANIFEST = "checkpoint_last.manifest.json"
GRID = tuple(f"reshard-model_part-{p}-shard{s}.pt" for p in (0, 1) for s in (0, 1))


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


# The files of a folder, the path in it that is given, and the name and files that it means.
MEANT: dict[str, tuple[tuple[str, ...], str, str, tuple[str, ...]]] = {
    "run": (RUN, ".", "checkpoint_best.pt", ("checkpoint_best.pt",)),
    "run without a best": (RUN[1:], ".", "checkpoint_last.pt", ("checkpoint_last.pt",)),
    "run whose last is a set": ((*SHARDS, MANIFEST, "checkpoint1.pt"), ".", "checkpoint_last.pt", SHARDS),
    "converted": (("checkpoint.pt", "dict.txt"), ".", "checkpoint.pt", ("checkpoint.pt",)),
    "metaseq's, preferred": (("b.pt", "restored.pt", *GRID), ".", "restored.pt", ("restored.pt",)),
    "metaseq's set": ((*GRID, "gpt2-vocab.json"), ".", "reshard.pt", GRID),
    "only one": (("other-model_part-0.pt", "notes.txt"), ".", "other.pt", ("other-model_part-0.pt",)),
    "file": (RUN, "checkpoint1.pt", "checkpoint1.pt", ("checkpoint1.pt",)),
    "file without .pt": (("weights",), "weights", "weights", ("weights",)),
    "name without .pt": (RUN, "checkpoint1", "checkpoint1", ("checkpoint1.pt",)),
    "name of a set": (GRID, "reshard.pt", "reshard.pt", GRID),
    "file of a set": (GRID, GRID[2], GRID[2], GRID),
    "manifest of a set": ((*SHARDS, MANIFEST), MANIFEST, MANIFEST, SHARDS),
    "whole file beside parts": ((*GRID, "reshard.pt"), "reshard.pt", "reshard.pt", ("reshard.pt",)),
    "part beside a whole file": ((*GRID, "reshard.pt"), GRID[0], GRID[0], GRID),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANT)
def test_meant(tmp_path: Path, case: str) -> None:
    held, given, name, files = MEANT[case]
    found = locate(put(tmp_path, *held) / given)
    assert found.path == tmp_path / name
    assert found.files == [tmp_path / file for file in files]
    assert found.has_manifest == (MANIFEST in held)
    assert found.is_set == (files in (SHARDS, GRID, ("other-model_part-0.pt",)))


def test_grid_is_in_order_of_numbers(tmp_path: Path) -> None:
    names = [[f"a-model_part-{p}-shard{s}.pt" for s in range(11)] for p in range(2)]
    found = locate(put(tmp_path, *names[0], *names[1]))
    assert [[path.name for path in row] for row in grid_of(found.files)] == names


def test_grid_of_shards_alone(tmp_path: Path) -> None:
    found = locate(put(tmp_path, "b-shard1.pt", "b-shard0.pt"))
    assert grid_of(found.files) == [[tmp_path / "b-shard0.pt", tmp_path / "b-shard1.pt"]]


def test_hugging_face_folder(tmp_path: Path) -> None:
    assert not is_hf(put(tmp_path, "model.safetensors"))
    assert is_hf(put(tmp_path, "config.json"))


REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nothing there": ((), "none", "The model must exist, but .*none does not"),
    "empty folder": (("dict.txt",), ".", "must be a Hugging Face folder with config.json or hold a checkpoint such as checkpoint_best.pt"),
    "several": (("a.pt", "b-shard0.pt"), ".", "must hold one checkpoint, but .* holds a.pt, b.pt"),
    "part of a whole file": (("a.pt",), "a-shard0.pt", "The model must exist, but .*a-shard0.pt does not"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    held, given, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        locate(put(tmp_path, *held) / given)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (GRID[:3], "must hold the whole set, but .* lacks reshard-model_part-1-shard1.pt"),
        ((*GRID, "reshard-model_part-2.pt"), "must be one set of files, but .* which are of two"),
    ],
)
def test_grids_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        grid_of(locate(put(tmp_path, *names)).files)
