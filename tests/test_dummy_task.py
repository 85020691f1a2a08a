"""``--task opt_dummy_lm``: training without data, in any layout."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.fairseq_runs import train
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

DUMMY = (
    "--task", "opt_dummy_lm", "--dict-size", 90, "--dropout", 0, "--attention-dropout", 0,
    "--no-save", "--disable-validation", "--max-update", 20,
)  # fmt: skip
LAYOUTS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "one process": (1, ()),
    "tp2": (2, ("--model-parallel-size", 2)),
    "fsdp2": (2, ("--ddp-backend", "fully_sharded", "--use-sharded-state")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_learns_its_one_batch_by_heart_in_any_layout(tmp_path: Path, name: str) -> None:
    ranks, layout = LAYOUTS[name]
    recorder = Recorder(tmp_path / "rows")
    arguments = (None, tmp_path / "run", *DUMMY, *layout)
    ended = (
        [train(*arguments, prepare=recorder)]
        if ranks == 1
        else train_ranks(ranks, *arguments, prepare=recorder)
    )
    assert [rank.status for rank in ended] == [0] * ranks, ended[-1].output
    losses = recorder.numbers("loss")
    assert losses[0] == pytest.approx(math.log(96), rel=0.01)  # 90, filled up to a multiple of 8
    assert losses[-1] < 0.8 * losses[0]
    assert len({tuple(map(tuple, row["ids"])) for row in recorder.rows()}) == 1


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--dict-size", 3, "`--dict-size` must be at least 5, but is 3."),
        ("--tokens-per-sample", 0, "`--tokens-per-sample` must be at least 1, but is 0."),
        ("--dataset-size", 0, "`--dataset-size` must be at least 1, but is 0."),
    ],
)
def test_bad_input(tmp_path: Path, option: str, value: int, sentence: str) -> None:
    ended = train(None, tmp_path, *DUMMY, option, value)
    assert ended.status == 2
    assert sentence in ended.last_line
