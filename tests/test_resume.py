"""A run that stops and resumes is the run that never stopped, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

UPDATES = 30
STOP = 15


# 60 documents of less than a block make 15 samples of 4. With one sample an update the stop at 15
# is the epoch's end; with two, 15 is in the middle of the second epoch of 8 updates.
CASES = {"boundary": ("--update-freq", "1"), "middle": ("--update-freq", "2")}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", CASES)
def test_resumed_run_equals_uninterrupted(tmp_path: Path, where: str, workers: int) -> None:
    data = write_data(tmp_path / "data", documents=60, longest=31)
    options = (
        "--sample-break-mode", "eos", "--num-workers", workers, "--disable-validation",
        "--lr-scheduler", "polynomial_decay", "--warmup-updates", 5, "--total-num-update", UPDATES,
        *CASES[where],
    )  # fmt: skip
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    runs = (
        ("whole", whole, UPDATES),
        ("parts", parts, STOP),
        ("parts", parts, UPDATES),
    )
    for name, recorder, updates in runs:
        ended = train(
            data, tmp_path / f"save-{name}", *options, "--max-update", updates, prepare=recorder
        )
        assert ended.status == 0, ended.output

    assert [row["update"] for row in whole.rows()] == list(range(1, UPDATES + 1))
    assert parts.rows() == whole.rows()
    first_half = [i for row in whole.rows()[:STOP] for ids in row["ids"] for i in ids]
    assert (sorted(first_half) == list(range(60))) == (where == "boundary")
    weights = [
        torch.load(tmp_path / f"save-{name}" / "checkpoint_last.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for key, tensor in weights[0]["model"].items():
        assert torch.equal(tensor, weights[1]["model"][key]), key
    moments = [state["last_optimizer_state"]["state"] for state in weights]
    for number, state in moments[0].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, moments[1][number][name]), (number, name)


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    return dict(state["model"])


def trained(data: Path, folder: Path, *options: Any, **more: Any) -> str:
    ended = train(data, folder, "--disable-validation", *options, **more)
    assert ended.status == 0, ended.output
    return ended.output


REMAINDER = ("--sample-break-mode", "eos", "--skip-remainder-batch")  # 60 blocks are 15 batches
ITERATORS = {
    # updates of an epoch, or of two; where to stop
    "remainder": (("--update-freq", 4, "--max-epoch", 1, "--batch-size", 2), 7, (2, 5)),
    "everything": (
        ("--update-freq", "2,1", "--max-epoch", 2, "--grouped-shuffling", "--curriculum", 1,
         "--fixed-validation-seed", 3, "--num-workers", 1, "--data-buffer-size", 4),
        21, (3, 7, 8, 20),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", ITERATORS)
def test_options_of_the_iterator_go_on_where_they_were(tmp_path: Path, case: str) -> None:
    options, updates, stops = ITERATORS[case]
    folders = [
        str(write_data(tmp_path / f"data{n}", documents=60, longest=31, seed=n)) for n in range(2)
    ]
    data = Path(":".join(folders) if case == "everything" else folders[0])
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    trained(data, tmp_path / "a", *REMAINDER, *options, prepare=whole)
    for stop in (*stops, updates + 1):
        trained(data, tmp_path / "b", *REMAINDER, *options, "--max-update", stop, prepare=parts)
    assert [row["update"] for row in whole.rows()] == list(range(1, updates + 1))
    assert parts.rows() == whole.rows()
    expected = final_weights(tmp_path / "a")
    for name, tensor in final_weights(tmp_path / "b").items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    "changed",
    [
        ("--batch-size", 8),
        pytest.param(("--batch-size", 2), marks=pytest.mark.slow),
        pytest.param(("--max-tokens", 64, "--batch-size", 7), marks=pytest.mark.slow),
    ],
)
def test_other_batches_in_mid_epoch_show_every_block_once(
    tmp_path: Path, changed: tuple[Any, ...]
) -> None:
    data = write_data(tmp_path / "data", documents=123, longest=31)
    options = ("--sample-break-mode", "eos", "--max-epoch", 1)
    recorder = Recorder(tmp_path / "rows")
    trained(data, tmp_path / "run", *options, "--max-update", 9, prepare=recorder)
    log = trained(data, tmp_path / "run", *options, *changed, prepare=recorder)
    ids = [number for row in recorder.rows() for batch in row["ids"] for number in batch]
    assert sorted(ids) == list(range(123))
    assert "epoch 1 goes on with the 87 of its 123 blocks that were not seen, in " in log


@pytest.mark.slow
def test_other_ranks_and_batches_in_mid_epoch_show_every_block_once(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=123, longest=31)
    options = ("--sample-break-mode", "eos", "--max-epoch", 1, "--disable-validation")
    first, second, third = (Recorder(tmp_path / f"part{n}") for n in range(3))
    run = tmp_path / "run"
    ended = train_ranks(2, data, run, *options, "--max-update", 5, prepare=first)
    assert [rank.status for rank in ended] == [0, 0], ended
    trained(data, run, *options, "--batch-size", 3, "--max-update", 15, prepare=second)
    ended = train_ranks(2, data, run, *options, "--batch-size", 5, prepare=third)
    assert [rank.status for rank in ended] == [0, 0], ended
    rows = [*first.rows(0), *first.rows(1), *second.rows(), *third.rows(0), *third.rows(1)]
    ids = [number for row in rows for batch in row["ids"] for number in batch]
    assert sorted(ids) == list(range(123))
    assert len(second.rows()) == 10
    assert "goes on with the 53 of its 123 blocks" in ended[0].output


@pytest.mark.slow
def test_a_rest_too_small_for_an_update_is_the_next_epochs_beginning(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=60, longest=31)
    recorder = Recorder(tmp_path / "rows")
    trained(data, tmp_path / "run", *REMAINDER, "--max-update", 13, prepare=recorder)
    log = trained(
        data, tmp_path / "run", *REMAINDER, "--update-freq", 2, "--max-update", 14, prepare=recorder
    )
    assert "no update is left of epoch 1 under these settings: epoch 2 begins" in log
    assert [len(row["ids"]) for row in recorder.rows()] == [1] * 13 + [2]
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    iterator = state["extra_state"]["train_iterator"]
    assert (iterator["epoch"], iterator["iterations_in_epoch"]) == (2, 2)


def test_the_dummy_task_goes_on(tmp_path: Path) -> None:
    options = ("--task", "opt_dummy_lm", "--dict-size", 40, "--dataset-size", 30, "--max-epoch", 1)
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    for name, recorder, stops in (("a", whole, (9,)), ("b", parts, (3, 9))):
        for stop in stops:
            ended = train(
                None, tmp_path / name, *options, "--disable-validation", "--skip-remainder-batch",
                "--max-update", stop, prepare=recorder,
            )  # fmt: skip
            assert ended.status == 0, ended.output
    assert [row["update"] for row in whole.rows()] == list(range(1, 8))  # 8 batches but the last
    assert parts.rows() == whole.rows()
