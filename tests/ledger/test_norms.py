"""The norms of layers: those of the checkpoint's weights, and the same in every layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fairseq_runs import train
from tests.rank_runs import train_ranks
from tests.spiked import write_counting

pytestmark = pytest.mark.slow

OPTIONS = (
    "--disable-validation", "--num-workers", 0, "--dropout", 0, "--attention-dropout", 0, "--max-update", 8, "--log-norms", 4,
    "--ledger-interval", 4, "--save-interval-updates", 3, "--no-epoch-checkpoints",
)  # fmt: skip
FSDP = ("--ddp-backend", "fully_sharded")


def norms(run: Path) -> list[dict[str, Any]]:
    lines = (run / "ledger/updates.jsonl").read_text().splitlines()
    return [row["norms"] for row in map(json.loads, lines)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counting(tmp_path_factory.mktemp("norms") / "data")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, two batches an update."""
    run = tmp_path_factory.mktemp("norms") / "run"
    ended = train(data, run, *OPTIONS, "--update-freq", 2)
    assert ended.status == 0, ended
    return run


def test_they_are_those_of_the_model(alone: Path) -> None:
    """Update 4 was computed with the weights that were saved behind update 3."""
    first, second = norms(alone)
    assert {name: len(values) for name, values in first.items()} == {
        "activations": 2, "weights": 3, "gradients": 3,
    }  # fmt: skip
    state = torch.load(alone / "checkpoint_1_3.pt", weights_only=False)["model"]
    squares = [0.0, 0.0, 0.0]
    for name, tensor in state.items():
        layer = int(name.split(".")[2]) if name.startswith("decoder.layers.") else 2
        squares[layer] += float(tensor.double().square().sum())
    assert first["weights"] == pytest.approx([square**0.5 for square in squares], rel=1e-5)
    assert all(value > 0 for values in second.values() for value in values)


@pytest.mark.parametrize(
    ("layout", "batches"),
    [((), 1), (FSDP, 1), ((*FSDP, "--use-sharded-state"), 1), (("--model-parallel-size", 2), 2),
     (("--model-parallel-size", 2, "--sequence-parallel"), 2)],
    ids=["ddp2", "fsdp2", "fsdp2-sharded", "tp2", "tp2-sp"],
)  # fmt: skip
def test_every_layout_has_the_same(
    layout: tuple[Any, ...], batches: int, data: Path, alone: Path, tmp_path: Path
) -> None:
    ended = train_ranks(2, data, tmp_path, *OPTIONS, "--update-freq", batches, *layout)
    assert [rank.status for rank in ended] == [0, 0], ended
    for ours, theirs in zip(norms(tmp_path), norms(alone), strict=True):
        for name, values in theirs.items():
            assert ours[name] == pytest.approx(values, rel=1e-3), name
