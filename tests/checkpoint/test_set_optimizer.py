"""The optimizer's state is cut with the weights, in any order, or refused where it cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.compat.errors import UserError
from tests.checkpoint.cut_sets import Place, opened, piece, save_set, whole_state
from tests.checkpoint.test_set import assert_equal


@pytest.mark.parametrize("writes", [(1, 1), (2, 2)], ids=str)
def test_another_order_of_the_optimizer(tmp_path: Path, writes: tuple[int, int]) -> None:
    whole = whole_state()
    saved = opened(save_set(Place(tmp_path), whole, *writes))
    names = list(whole["model"])[::-1]
    pieces = {name: piece(name, t.shape, 0, 1, 0, 1) for name, t in whole["model"].items()}
    found = state_with_optimizer(saved, pieces, names)["last_optimizer_state"]
    assert found["param_groups"] == [{"lr": 0.1, "params": list(range(len(names)))}]
    states = whole["last_optimizer_state"]["state"]
    for index in range(len(names)):
        assert_equal(found["state"][index], states[len(names) - 1 - index])


@pytest.mark.parametrize("masters", [False, True])
def test_master_weights_come_from_the_saved_ones_or_the_fp32_model(
    tmp_path: Path, masters: bool
) -> None:
    whole = whole_state(masters=masters)
    saved = opened(save_set(Place(tmp_path), whole, 1, 2))
    names = list(whole["model"])
    pieces = {name: piece(name, t.shape, 1, 2, 0, 1) for name, t in whole["model"].items()}
    found = state_with_optimizer(saved, pieces, names, with_masters=True)
    truth = whole["last_optimizer_state"]["master_weights"] if masters else whole["model"].values()
    for index, (name, full) in enumerate(zip(names, truth)):
        expected = full[pieces[name].slices]
        assert torch.equal(found["last_optimizer_state"]["master_weights"][index], expected), name
        assert torch.equal(found["model"][name], expected), name


@pytest.mark.parametrize("groups", ["one", "no-decay-vectors"])
def test_a_file_of_fairseqs_own(tmp_path: Path, groups: str) -> None:
    whole = whole_state()
    names = list(whole["model"])
    if groups == "no-decay-vectors":
        matrices = [n for n in names if whole["model"][n].dim() > 1]
        names = matrices + [n for n in names if n not in matrices]
        optimizer = whole["last_optimizer_state"]
        order = [list(whole["model"]).index(name) for name in names]
        optimizer["state"] = {i: optimizer["state"][old] for i, old in enumerate(order)}
        split = list(range(len(names)))
        optimizer["param_groups"] = [
            {"lr": 0.1, "params": split[: len(matrices)]},
            {"lr": 0.1, "params": split[len(matrices) :]},
        ]
    torch.save(whole, tmp_path / "checkpoint_last.pt")
    saved = CheckpointSet.open(tmp_path / "checkpoint_last.pt")
    pieces = {name: piece(name, t.shape, 1, 2, 1, 2) for name, t in whole["model"].items()}
    found = state_with_optimizer(saved, pieces, names)["last_optimizer_state"]
    assert [len(g["params"]) for g in found["param_groups"]] == [
        len(g["params"]) for g in whole["last_optimizer_state"]["param_groups"]
    ]
    for index, name in enumerate(names):
        full = whole["last_optimizer_state"]["state"][index]["exp_avg"]
        assert torch.equal(found["state"][index]["exp_avg"], full[pieces[name].slices])


def flattened(whole: dict[str, Any]) -> None:
    size = sum(t.numel() for t in whole["model"].values())
    whole["last_optimizer_state"] = {
        "state": {0: {"exp_avg": torch.randn(size)}},
        "param_groups": [{"params": [0]}],
        "master_weights": [torch.randn(size)],
    }


def test_flattened_masters_go_on_in_their_own_layout_only(tmp_path: Path) -> None:
    whole = whole_state()
    flattened(whole)
    torch.save(whole, tmp_path / "checkpoint_last.pt")
    saved = CheckpointSet.open(tmp_path / "checkpoint_last.pt")
    same = {name: piece(name, t.shape, 0, 1, 0, 1) for name, t in whole["model"].items()}
    found = state_with_optimizer(saved, same, None)
    assert_equal(found, whole)
    half = {name: piece(name, t.shape, 0, 1, 0, 2) for name, t in whole["model"].items()}
    with pytest.raises(UserError, match="the checkpoint's is flattened"):
        state_with_optimizer(saved, half, list(half))
