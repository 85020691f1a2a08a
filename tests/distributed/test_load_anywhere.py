"""A checkpoint of any layout goes on in any other: 25 pairs of saving and resuming.

Each run of 4 updates saves; each layout then resumes it, one process included, and the next 5 updates
are those of the run that never stopped, within 1e-5. What is loaded is what was saved, to the bit:
weights and both moments, gathered from all ranks.
"""

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from torch import Tensor

from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.layout.piece import Piece
from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

TOLERANCE = 1e-5
SAVED_AT, UPDATES = 4, 9
MICRO_BATCHES = 4  # of 2 samples, in an update, over all data-parallel ranks
FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
# name -> ranks, data-parallel size, options
LAYOUTS: dict[str, tuple[int, int, tuple[Any, ...]]] = {
    "1": (1, 1, ()),
    "fsdp2": (2, 2, FSDP),
    "fsdp4": (4, 4, FSDP),
    "tp2": (2, 1, ("--model-parallel-size", 2)),
    "tp2 x fsdp2": (4, 2, ("--model-parallel-size", 2, *FSDP)),
}
OTHERS = {
    "ddp2": (2, 2, ()),
    "fsdp2, whole files": (2, 2, ("--ddp-backend", "fully_sharded")),
    "tp2 x fsdp2, whole files": (
        4, 2, ("--model-parallel-size", 2, "--ddp-backend", "fully_sharded"),
    ),
}  # fmt: skip
ALL = {**LAYOUTS, **OTHERS}


class LoadedState(Recorder):
    """Also keeps what every rank holds, moments included, when its first update begins."""

    def __call__(self, rank: int = 0) -> None:
        super().__call__(rank)
        from fairseq.trainer import Trainer

        from metaseq_plugin.checkpoint.save import optimizer_params
        from metaseq_plugin.layout.held import local_tensors, pieces_of

        step = Trainer.train_step

        def train_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            file = self._file("loaded", rank)
            if not file.exists():
                names = optimizer_params(trainer) or []
                state = trainer.optimizer.state_dict()["state"]
                moments = {names[i]: value for i, value in state.items()}
                pieces = pieces_of(trainer.get_model())
                held = {
                    name: (tuple(pieces[name]), weight.clone(), moments.get(name))
                    for name, weight in local_tensors(trainer.get_model()).items()
                }
                torch.save(held, file)
            return step(trainer, *args, **kwargs)

        Trainer.train_step = train_step


def run(folder: Path, data: Path, name: str, updates: int, save: bool, *more: Any) -> LoadedState:
    ranks, data_parallel, options = ALL[name]
    recorder = LoadedState(folder / "rows", weights=True)
    arguments = (
        data, folder, "--decoder-attention-heads", 4, "--max-update", updates, "--batch-size", 2,
        "--update-freq", MICRO_BATCHES // data_parallel, "--dropout", 0, "--attention-dropout", 0,
        "--lr", 0.001, "--adam-eps", 1e-5, "--lr-scheduler", "polynomial_decay",
        "--total-num-update", 20, "--warmup-updates", 6, "--disable-validation",
        *options, *more, *(() if save else ("--no-save",)),
    )  # fmt: skip
    ended = (
        [train(*arguments, prepare=recorder)]
        if ranks == 1
        else train_ranks(ranks, *arguments, prepare=recorder)
    )
    assert [rank.status for rank in ended] == [0] * ranks, "\n".join(r.output for r in ended)
    return recorder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), documents=100, longest=24)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path) -> LoadedState:
    return run(tmp_path_factory.mktemp("uninterrupted"), data, "1", UPDATES, False)


@pytest.fixture(scope="module")
def saved_by(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[[str], Path]:
    """``saved_by(layout)`` is the checkpoint that it wrote, made once."""
    parent = tmp_path_factory.mktemp("saved")

    def save(name: str) -> Path:
        folder = parent / name
        if not folder.exists():
            run(folder, data, name, SAVED_AT, True)
        return folder / "checkpoint_last.pt"

    return save


PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS]
PAIRS += [("1", other) for other in OTHERS] + [(other, "1") for other in OTHERS]


def assert_loaded(recorder: LoadedState, checkpoint: Path) -> None:
    saved_set = CheckpointSet.open(checkpoint)
    wanted = {name: Piece.whole(piece.shape) for name, piece in saved_set.pieces.items()}
    names = list(wanted)
    whole = state_with_optimizer(saved_set, wanted, names)
    seen: dict[str, int] = dict.fromkeys(names, 0)
    for file in recorder.path.parent.glob(f"{recorder.path.name}-loaded*"):
        for name, (geometry, weight, moments) in torch.load(file).items():
            piece = Piece(*geometry)
            saved = whole["last_optimizer_state"]["state"][names.index(name)]
            assert torch.equal(weight, whole["model"][name][piece.slices]), name
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(moments[key], saved[key][piece.slices]), (name, key)
                assert saved[key].abs().max() > 0, (name, key)
            assert moments["step"] == saved["step"] == SAVED_AT
            seen[name] += weight.numel()
    for name, tensor in whole["model"].items():
        assert seen[name] >= tensor.numel(), name


@pytest.mark.slow
@pytest.mark.parametrize(("saver", "resumer"), PAIRS)
def test_resumes_what_any_layout_saved(
    tmp_path: Path,
    data: Path,
    uninterrupted: LoadedState,
    saved_by: Callable[[str], Path],
    saver: str,
    resumer: str,
) -> None:
    checkpoint = saved_by(saver)
    resumed = run(tmp_path, data, resumer, UPDATES, False, "--restore-file", checkpoint)
    assert_loaded(resumed, checkpoint)
    assert [row["update"] for row in resumed.rows()] == [5, 6, 7, 8, 9]
    for key in ("loss", "gnorm", "lr"):
        expected = uninterrupted.numbers(key)[SAVED_AT:]
        assert resumed.numbers(key) == pytest.approx(expected, rel=TOLERANCE, abs=0)
    expected_weights: dict[str, Tensor] = uninterrupted.weights()
    for parameter, tensor in resumed.weights().items():
        assert (tensor - expected_weights[parameter]).abs().max() < TOLERANCE, parameter
