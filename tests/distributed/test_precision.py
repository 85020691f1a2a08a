"""The other options of a sharded run: compute types, and what must not change a number."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fairseq_runs import write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
TP_FSDP = ("--model-parallel-size", 2, *FSDP)
UPDATES = 6
# A micro-batch's relative error in bf16 (8 bits) and fp16 (11 bits) on this model, with room for four times.
TOLERANCE = {"--bf16": 1e-3, "--fp16": 1e-3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), documents=200, longest=31)


def run(folder: Path, data: Path, *options: Any, updates: int = UPDATES) -> Recorder:
    ranks = 4 if "--model-parallel-size" in options and FSDP[0] in options else 2
    recorder = Recorder(folder / "rows", weights=True)
    ended = train_ranks(
        ranks, data, folder / "run", "--max-update", updates, "--lr", 0.001, "--dropout", 0,
        "--attention-dropout", 0, "--clip-norm", 0.1, "--disable-validation", *options,
        prepare=recorder,
    )  # fmt: skip
    assert [rank.status for rank in ended] == [0] * ranks, "\n".join(r.output for r in ended)
    return recorder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Recorder:
    return run(tmp_path_factory.mktemp("reference"), data, *FSDP)


def all_bits(recorder: Recorder) -> list[Any]:
    return [row | {"ids": None} for row in recorder.rows()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--cpu-offload",), ("--no-reshard-after-forward",), ("--checkpoint-activations",),
     ("--checkpoint-activations", "--recompute", "selective"),
     ("--checkpoint-activations", "--checkpoint-layers", "1"),
     ("--checkpoint-activations", "--offload-activations"),
     pytest.param(("--compile",), marks=pytest.mark.slow)],
)  # fmt: skip
def test_where_things_are_kept_changes_no_bit(
    tmp_path: Path, data: Path, reference: Recorder, options: tuple[str, ...]
) -> None:
    found = run(tmp_path, data, *FSDP, *options)
    if "--compile" in options:  # other kernels
        assert found.numbers("loss") == pytest.approx(reference.numbers("loss"), rel=1e-6)
        return
    assert all_bits(found) == all_bits(reference)
    for name, tensor in reference.weights().items():
        assert torch.equal(found.weights()[name], tensor), name


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", [FSDP, pytest.param(TP_FSDP, marks=pytest.mark.slow)])
def test_sixteen_bits_compute_beside_fp32_master_weights(
    tmp_path: Path, data: Path, reference: Recorder, dtype: str, layout: tuple[Any, ...]
) -> None:
    found = run(tmp_path, data, *layout, dtype)
    for key in ("loss", "gnorm"):
        error = [abs(a / b - 1) for a, b in zip(found.numbers(key), reference.numbers(key))]
        limit = TOLERANCE[dtype] * (1 if key == "loss" else 10)
        assert 0 < max(error) < limit, (key, error)
    for name, tensor in found.weights().items():
        assert tensor.dtype == torch.float32, name
        assert not torch.equal(tensor, tensor.to(torch.bfloat16).float()), name


@pytest.mark.slow
def test_loss_scale_goes_on_from_a_checkpoint(tmp_path: Path, data: Path) -> None:
    options = (*FSDP, "--fp16", "--fp16-init-scale", 4, "--fp16-scale-window", 2)
    run(tmp_path, data, *options, updates=4)
    state = torch.load(tmp_path / "run" / "checkpoint_last-shard1.pt", weights_only=True)
    grown = state["last_optimizer_state"]["loss_scale"]
    assert grown > 4

    whole = run(tmp_path / "whole", data, *options)
    resumed = Recorder(tmp_path / "resumed")
    ended = train_ranks(
        2, data, tmp_path / "run", "--max-update", UPDATES, "--lr", 0.001, "--dropout", 0,
        "--attention-dropout", 0, "--clip-norm", 0.1, "--disable-validation", *options,
        prepare=resumed,
    )  # fmt: skip
    assert [rank.status for rank in ended] == [0, 0], ended[1].output
    assert all_bits(resumed) == all_bits(whole)[4:]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [FSDP[:2], FSDP], ids=["one file", "shards"])
def test_a_run_in_bf16_goes_on_from_its_checkpoint(
    tmp_path: Path, data: Path, layout: tuple[str, ...]
) -> None:
    run(tmp_path, data, *layout, "--bf16", updates=2)
    for path in (tmp_path / "run").glob("*.pt"):  # plain tensors, and weights only once
        saved = torch.load(path, weights_only=True)["last_optimizer_state"]
        assert saved.keys() == {"state", "param_groups"}

    whole = run(tmp_path / "whole", data, *layout, "--bf16", updates=4)
    resumed = run(tmp_path, data, *layout, "--bf16", updates=4)
    assert all_bits(resumed)[-2:] == all_bits(whole)[2:]
    for name, tensor in whole.weights().items():
        assert torch.equal(resumed.weights()[name], tensor), name


def test_an_overflow_is_skipped_by_all_ranks_and_the_scale_halved(
    tmp_path: Path, data: Path
) -> None:
    found = run(tmp_path, data, *FSDP, "--fp16", "--fp16-init-scale", 2**30, updates=2)
    skipped = [row for row in found.rows() if row["loss"] is None]
    assert 3 <= len(skipped) < 30
    assert [row["update"] for row in found.rows()][-2:] == [1, 2]


@pytest.mark.slow
def test_no_scale_that_fits_ends_the_run_in_one_sentence(tmp_path: Path, data: Path) -> None:
    ended = train_ranks(
        2, data, tmp_path, *FSDP, "--fp16", "--fp16-init-scale", 2**30, "--threshold-loss-scale",
        2**29, "--disable-validation", "--max-update", 3,
    )  # fmt: skip
    assert [rank.status for rank in ended] == [2, 2]
    assert "updates in a row overflowed" in ended[0].last_line
    assert "Traceback" not in "".join(rank.output for rank in ended)
