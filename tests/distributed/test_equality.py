"""One process = DDP = FSDP = tensor parallelism = both, update by update.

Eight updates of 16 samples on a tiny model in fp32, however they are dealt out: losses and gradient
norms within 1e-5 of one process, final weights within 1e-5, gradients clipped at every update. The
learning rate is of OPT's size and Adam's epsilon above rounding: it would move an element whose gradient is
nothing but rounding by as much as any other.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

TOLERANCE = 1e-5
UPDATES = 8
MICRO_BATCHES = 8  # of 2 samples, in an update, over all ranks
CLIP_NORM = 0.005

KINDS = {
    "pre-norm": ("--decoder-attention-heads", 4),
    "350m": ("--decoder-attention-heads", 4, "--decoder-post-norm", "--decoder-word-embed-dim", 8),
}
FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
# name -> ranks, data-parallel size, options
LAYOUTS: dict[str, tuple[int, int, tuple[Any, ...]]] = {
    "ddp2": (2, 2, ()),
    "fsdp1": (1, 1, FSDP),
    "fsdp2": (2, 2, FSDP),
    "fsdp4": (4, 4, FSDP),
    "zero2": (2, 2, (*FSDP, "--no-reshard-after-forward")),
    "tp2": (2, 1, ("--model-parallel-size", 2)),
    "tp4": (4, 1, ("--model-parallel-size", 4)),
    "tp2 x ddp2": (4, 2, ("--model-parallel-size", 2)),
    "tp2 x fsdp2": (4, 2, ("--model-parallel-size", 2, *FSDP)),
}
CHECKPOINTING = ("--checkpoint-activations",)
SELECTIVE = (*CHECKPOINTING, "--recompute", "selective")
SEQUENCE = ("--sequence-parallel",)

Numbers = tuple[list[float], list[float], dict[str, Any]]


def run(folder: Path, ranks: int, data_parallel: int, kind: str, *options: Any) -> Numbers:
    """Losses, gradient norms and final full weights of a run."""
    data = write_data(folder / "data", documents=400, longest=24)
    recorder = Recorder(folder / "rows", weights=True)
    arguments = (
        data, folder / "run", *KINDS[kind], "--max-update", UPDATES, "--batch-size", 2,
        "--update-freq", MICRO_BATCHES // data_parallel, "--dropout", 0, "--attention-dropout", 0,
        "--clip-norm", CLIP_NORM, "--lr", 0.001, "--adam-eps", 1e-5, "--disable-validation", "--no-save", *options,
    )  # fmt: skip
    ended = (
        [train(*arguments, prepare=recorder)]
        if ranks == 1
        else train_ranks(ranks, *arguments, prepare=recorder)
    )
    assert [rank.status for rank in ended] == [0] * ranks, ended[-1].output
    return recorder.numbers("loss"), recorder.numbers("gnorm"), recorder.weights()


@cache
def one_process(kind: str, folder: Path) -> Numbers:
    return run(folder / kind, 1, 1, kind)


def assert_equal(found: Numbers, expected: Numbers) -> None:
    for ours, theirs in zip(found[:2], expected[:2]):
        assert len(ours) == len(theirs) == UPDATES
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0)
    assert min(expected[1]) > CLIP_NORM
    assert found[2].keys() == expected[2].keys()
    for name, tensor in expected[2].items():
        assert (found[2][name] - tensor).abs().max() < TOLERANCE, name


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_one_process(tmp_path: Path, shared_folder: Path, name: str) -> None:
    ranks, data_parallel, options = LAYOUTS[name]
    found = run(tmp_path, ranks, data_parallel, "pre-norm", *options)
    assert_equal(found, one_process("pre-norm", shared_folder))


VARIANTS = [
    (kind, name, extra)
    for kind in KINDS
    for name in LAYOUTS
    for extra in (
        CHECKPOINTING,
        SEQUENCE,
        (*SEQUENCE, *CHECKPOINTING),
        SELECTIVE,
        (*SEQUENCE, *SELECTIVE),
    )
    if "tp" in name or extra in (CHECKPOINTING, SELECTIVE)
] + [("350m", name, ()) for name in LAYOUTS]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "extra"), VARIANTS, ids=lambda v: "".join(v) or "plain")
def test_variant_equals_one_process(
    tmp_path: Path, shared_folder: Path, kind: str, name: str, extra: tuple[str, ...]
) -> None:
    ranks, data_parallel, options = LAYOUTS[name]
    found = run(tmp_path, ranks, data_parallel, kind, *options, *extra)
    assert_equal(found, one_process(kind, shared_folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tp2", "tp2 x fsdp2"])
@pytest.mark.parametrize("extra", [(), SEQUENCE], ids=["", "sequence"])
def test_document_attention_equals_one_process(
    tmp_path: Path, name: str, extra: tuple[str, ...]
) -> None:
    """Every rank makes the same mask; with cut activations, from tokens that are padded."""
    ranks, data_parallel, options = LAYOUTS[name]
    option = "--document-attention"
    expected = run(tmp_path / "one", 1, 1, "pre-norm", option)
    found = run(tmp_path / "many", ranks, data_parallel, "pre-norm", option, *options, *extra)
    assert_equal(found, expected)
