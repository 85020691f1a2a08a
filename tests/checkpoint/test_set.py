"""Whatever layout wrote a set, whatever layout reads it: every rank gets its own cut, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.checkpoint.manifest import FileName, SetName
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import torch_file
from tests.checkpoint.cut_sets import (
    LAYOUTS,
    Place,
    cut_state,
    opened,
    piece,
    save_set,
    whole_state,
)


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_equal(found[number], value, f"{where}.{number}")
    else:
        assert found == expected, where


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SetName:
    return save_set(
        Place(tmp_path_factory.mktemp("set")), whole_state(masters=True), *request.param
    )


@pytest.mark.parametrize("reads", LAYOUTS, ids=str)
def test_every_layout_reads_every_other(written: SetName, reads: tuple[int, int]) -> None:
    whole = whole_state(masters=True)
    saved = opened(written)
    parts, shards = reads
    names = list(whole["model"])
    for part in range(parts):
        for shard in {0, shards // 2, shards - 1}:
            where = (part, parts, shard, shards)
            pieces = {name: piece(name, t.shape, *where) for name, t in whole["model"].items()}
            found = state_with_optimizer(saved, pieces, names)
            expected = cut_state(whole, *where)
            del expected["layout"]
            # the truth is in fp32
            expected["model"] = dict(zip(names, expected["last_optimizer_state"]["master_weights"]))
            assert_equal(found, expected)


def test_the_whole_is_read_without_the_optimizer(tmp_path: Path) -> None:
    whole = whole_state()
    found = opened(save_set(Place(tmp_path), whole, 2, 3)).whole()
    assert_equal(found, {**whole, "last_optimizer_state": None})


def test_only_the_own_file_is_opened_where_the_layout_is_as_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_state()
    name = save_set(Place(tmp_path), whole, 2, 2)
    seen: list[str] = []
    read = torch_file.read

    def seeing(path: Path) -> Any:
        seen.append(path.name)
        return read(path)

    monkeypatch.setattr(torch_file, "read", seeing)
    saved = CheckpointSet.open(name.manifest_path, own=FileName("", 1, 0))
    pieces = {key: piece(key, t.shape, 1, 2, 0, 2) for key, t in whole["model"].items()}
    state_with_optimizer(saved, pieces, list(whole["model"]))
    assert seen == ["checkpoint_last-model_part-1-shard0.pt"]


def test_another_model_is_refused_by_the_name_of_its_tensor(tmp_path: Path) -> None:
    whole = whole_state()
    saved = opened(save_set(Place(tmp_path), whole, 1, 2))
    pieces = saved.whole()["model"]
    wanted = {name: piece(name, t.shape, 0, 1, 0, 1) for name, t in pieces.items()}
    del wanted["decoder.layer_norm.bias"]
    with pytest.raises(UserError, match=r"`decoder\.layer_norm\.bias` must be in both"):
        saved.state_for(wanted)


def test_a_part_under_another_name_is_not_the_whole(tmp_path: Path) -> None:
    save_set(Place(tmp_path), whole_state(), 1, 2)
    (tmp_path / "checkpoint_last-shard1.pt").rename(tmp_path / "mine.pt")
    with pytest.raises(UserError, match=r"mine.pt must hold all of `decoder.embed_tokens.weight`"):
        CheckpointSet.open(tmp_path / "mine.pt").whole()
