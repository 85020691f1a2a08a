"""Names of files, and a damaged set is named by the file that is wrong."""

import json
from pathlib import Path
from typing import Callable, Optional

import pytest

from metaseq_plugin.checkpoint.manifest import Facts, FileName, Manifest, set_name, set_names
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.compat.errors import UserError
from tests.checkpoint.cut_sets import Place, run_ranks, save_set, whole_state

LAST = "checkpoint_last"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("checkpoint_last.pt", FileName(LAST)),
        ("checkpoint_last-shard12.pt", FileName(LAST, None, 12)),
        ("checkpoint_last-model_part-3.pt", FileName(LAST, 3)),
        ("checkpoint_1_50-model_part-0-shard1.pt", FileName("checkpoint_1_50", 0, 1)),
        ("checkpoint.best_loss_3.1419.pt", FileName("checkpoint.best_loss_3.1419")),
        ("my-shard.pt", FileName("my-shard")),
        ("checkpoint_last.pt.metaseq-tmp", None),
        ("checkpoint_last.manifest.json", None),
    ],
)
def test_names(name: str, parsed: FileName) -> None:
    assert FileName.parse(name) == parsed
    assert parsed is None or str(parsed) == name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_set(Place(tmp_path), whole_state(), 2, 2)
    return tmp_path


def test_every_path_of_a_set_means_it(folder: Path) -> None:
    (name,) = set_names(folder)
    assert len(name.files()) == 4
    paths = [*folder.iterdir(), folder / f"{LAST}.pt", folder / LAST]
    assert len(paths) == 7
    assert {set_name(path) for path in paths} == {name}


def test_the_manifest_says_what_there_is(folder: Path) -> None:
    content = json.loads((folder / f"{LAST}.manifest.json").read_text())
    assert content["layout"] == {
        "model_parallel_size": 2,
        "num_shards": 2,
        "data_parallel_size": 2,
    }
    assert content["num_updates"] == 7
    assert {n: f["bytes"] for n, f in content["files"].items()} == {
        path.name: path.stat().st_size for path in folder.glob("*.pt")
    }
    assert (
        Manifest.read(folder / f"{LAST}.manifest.json").dump()
        == (folder / f"{LAST}.manifest.json").read_text()
    )


def shard(folder: Path, part: int, number: int) -> Path:
    return folder / f"{LAST}-model_part-{part}-shard{number}.pt"


def truncated(folder: Path) -> None:
    path = shard(folder, 1, 0)
    path.write_bytes(path.read_bytes()[:-1])


def empty(folder: Path) -> None:
    shard(folder, 1, 0).write_bytes(b"")


def flipped(folder: Path) -> None:
    path = shard(folder, 1, 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped(folder: Path) -> None:
    one, other = shard(folder, 1, 0), shard(folder, 1, 1)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def missing(folder: Path) -> None:
    shard(folder, 1, 0).unlink()


def of_another_save(folder: Path) -> None:
    other = folder / "other"
    save_set(Place(other), whole_state(seed=1), 2, 2)
    shard(other, 1, 0).replace(shard(folder, 1, 0))


def without_manifest(folder: Path) -> None:
    (folder / f"{LAST}.manifest.json").unlink()


def half_a_manifest(folder: Path) -> None:
    path = folder / f"{LAST}.manifest.json"
    path.write_text(path.read_text()[:200])


def words_for_numbers(folder: Path) -> None:
    path = folder / f"{LAST}.manifest.json"
    path.write_text(path.read_text().replace('"num_updates": 7', '"num_updates": "seven"'))


def of_the_future(folder: Path) -> None:
    path = folder / f"{LAST}.manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))


FILE = "model_part-1-shard0.pt must be the whole checkpoint file that its manifest describes, but "
DAMAGE: dict[Callable[[Path], None], str] = {
    truncated: FILE + "has [0-9,]+ bytes instead of",
    empty: FILE + "has 0 bytes instead of",
    flipped: FILE + "has other content",
    swapped: r"model_part-1-shard[01].pt .* but (has other content|has [0-9,]+ bytes instead)",
    missing: FILE + "is missing",
    of_another_save: FILE + "has other content",
    without_manifest: "the manifest checkpoint_last.manifest.json is missing",
    half_a_manifest: "checkpoint_last.manifest.json must be a checkpoint's manifest, but",
    words_for_numbers: "checkpoint_last.manifest.json must be a checkpoint's manifest, but",
    of_the_future: "checkpoint_last.manifest.json must be of version 1, but is of 2",
}


@pytest.mark.parametrize("spoil", DAMAGE, ids=lambda spoil: spoil.__name__)
def test_damage_is_named_by_every_rank(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    path = folder / f"{LAST}.pt"
    results = run_ranks(3, lambda ranks: CheckpointSet.open(path, ranks))
    for result in results:
        assert isinstance(result, UserError)
        assert str(result) == str(results[0])
    with pytest.raises(UserError, match=DAMAGE[spoil]):
        CheckpointSet.open(path)


def test_the_ranks_divide_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaseq_plugin.checkpoint import manifest

    read: list[str] = []
    fault_of = manifest.fault_of

    def seeing(path: Path, facts: Facts) -> Optional[str]:
        read.append(path.name)
        return fault_of(path, facts)

    monkeypatch.setattr(manifest, "fault_of", seeing)
    path = folder / f"{LAST}.pt"
    opened = run_ranks(3, lambda ranks: CheckpointSet.open(path, ranks))
    assert all(isinstance(each, CheckpointSet) for each in opened)
    assert sorted(read) == sorted(p.name for p in folder.glob("*.pt"))


def test_one_whole_file_needs_no_manifest(tmp_path: Path) -> None:
    save_set(Place(tmp_path), whole_state())
    without_manifest(tmp_path)
    assert CheckpointSet.open(tmp_path / f"{LAST}.pt").manifest is None
    (tmp_path / f"{LAST}.pt").rename(tmp_path / "mine.ckpt")
    assert CheckpointSet.open(tmp_path / "mine.ckpt").first.state["layout"]["version"] == 1
