"""metaseq reshard: there and back is bit-exact, and what cannot be cut is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin import cli
from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.compat.errors import UserError
from tests.checkpoint.cut_sets import Place, cut_state, save_set, whole_state
from tests.checkpoint.test_set import assert_equal


@pytest.mark.parametrize("middle", [(1, 3), (2, 1), (4, 2), (1, 33)], ids=str)
@pytest.mark.parametrize("masters", [False, True])
def test_there_and_back(tmp_path: Path, middle: tuple[int, int], masters: bool) -> None:
    whole = whole_state(masters=masters)
    save_set(Place(tmp_path / "a"), whole, data_parallel_size=8)
    reshard(tmp_path / "a" / "checkpoint_last.pt", tmp_path / "b" / "other.pt", *middle)
    reshard(tmp_path / "b" / "other.manifest.json", tmp_path / "c", 1, 1)
    found = torch.load(tmp_path / "c" / "other.pt", weights_only=True)
    expected = cut_state(whole, 0, 1, 0, 1, data_parallel_size=8)
    if masters:  # the model's tensors are the truth now, not its rounding
        expected["model"] = dict(
            zip(whole["model"], expected["last_optimizer_state"]["master_weights"])
        )
    assert_equal(found, expected)


def test_files_are_those_of_a_run_in_that_layout(tmp_path: Path) -> None:
    whole = whole_state()
    save_set(Place(tmp_path / "a"), whole)
    reshard(tmp_path / "a" / "checkpoint_last.pt", tmp_path / "b", 2, 3)
    for part in range(2):
        for shard in range(3):
            path = tmp_path / "b" / f"checkpoint_last-model_part-{part}-shard{shard}.pt"
            found = torch.load(path, weights_only=True)
            assert_equal(found, cut_state(whole, part, 2, shard, 3))
    assert len(list((tmp_path / "b").iterdir())) == 7


def test_without_the_optimizer(tmp_path: Path) -> None:
    save_set(Place(tmp_path / "a"), whole_state(), 1, 2)
    reshard(tmp_path / "a" / "checkpoint_last.pt", tmp_path / "b", 2, 1, with_optimizer=False)
    saved = CheckpointSet.open(tmp_path / "b" / "checkpoint_last.pt")
    assert not saved.has_optimizer
    assert_equal(saved.whole()["model"], whole_state()["model"])


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "parts that the heads cannot fill": (("a/checkpoint_last.pt", "b", 3, 1), r"`--model-parallel-size` must divide .*, but is 3. Set one of 1, 2, 4."),
    "more parts than heads": (("a/checkpoint_last.pt", "b", 8, 1), "Set one of 1, 2, 4."),
    "no parts": (("a/checkpoint_last.pt", "b", 0, 1), "`--model-parallel-size` must be at least 1, but is 0"),
    "no shards": (("a/checkpoint_last.pt", "b", 1, -1), "`--num-shards` must be at least 1, but is -1"),
    "nothing there": (("a/checkpoint_first.pt", "b", 1, 1), "SRC must be a checkpoint, but a/checkpoint_first.pt does not exist"),
    "onto itself": (("a/checkpoint_last.pt", "a", 2, 1), "DST must not exist yet, but a/checkpoint_last.pt does"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (src, dst, parts, shards), sentence = REFUSED[name]
    save_set(Place(Path("a")), whole_state())
    with pytest.raises(UserError, match=sentence):
        reshard(Path(src), Path(dst), parts, shards)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_set(Place(tmp_path / "a"), whole_state())
    arguments = [tmp_path / "a" / "checkpoint_last.pt", tmp_path / "b", "--num-shards", 2]
    assert cli.main(["reshard", *map(str, arguments)]) == 0
    read, wrote = capsys.readouterr().out.splitlines()
    assert read.endswith("checkpoint_last.pt: one file")
    assert wrote.endswith("checkpoint_last.pt: 2 shards, 2 files")
