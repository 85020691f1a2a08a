"""fairseq's default backend on CPU ranks: two ranks are one process with twice the batches an update."""

import re
from pathlib import Path

import pytest
import torch

from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

OPTIONS = ("--max-update", 8, "--dropout", 0, "--attention-dropout", 0, "--disable-validation",
           "--sample-break-mode", "eos", "--clip-norm", 0.1)  # fmt: skip


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=64, longest=31)
    one = Recorder(tmp_path / "one", weights=True)
    two = Recorder(tmp_path / "two", weights=True)
    ended = train(data, tmp_path / "run-1", *OPTIONS, "--update-freq", 2, "--no-save", prepare=one)
    assert ended.status == 0, ended.output
    ranks = train_ranks(2, data, tmp_path / "run-2", *OPTIONS, "--no-save", prepare=two)
    assert [rank.status for rank in ranks] == [0, 0], ranks

    assert [row["update"] for row in two.rows()] == list(range(1, 9))
    for mine, first, second in zip(one.rows(), two.rows(0), two.rows(1), strict=True):
        assert mine["ids"] == first["ids"] + second["ids"]
    for rank in (0, 1):
        for key in ("loss", "gnorm"):
            assert two.numbers(key, rank) == pytest.approx(one.numbers(key), rel=1e-5)
    assert min(one.numbers("gnorm")) > 0.1  # clipping bites
    expected = one.weights()
    for name, tensor in two.weights().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_logs_that_cannot_be_summed_are_gathered(tmp_path: Path) -> None:
    def listing(rank: int) -> None:
        from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion

        ChunkedCrossEntropyCriterion.logging_outputs_can_be_summed = staticmethod(lambda: False)

    data = write_data(tmp_path / "data", documents=64, longest=31)
    summed, listed = (
        train_ranks(2, data, tmp_path / name, *OPTIONS, "--no-save", "--max-update", 2, prepare=how)
        for name, how in (("summed", None), ("listed", listing))
    )
    ends = []
    for ranks in (summed, listed):
        assert [rank.status for rank in ranks] == [0, 0], ranks
        ends.append(re.findall(r"\| (loss \S+) .* (wpb \S+ \| bsz \S+)", ranks[0].output))
    assert ends[0] == ends[1] != []


@pytest.mark.slow
def test_two_ranks_resume_as_if_never_stopped(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=64, longest=31)
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    runs = (("whole", whole, 8), ("parts", parts, 3), ("parts", parts, 8))
    for name, recorder, updates in runs:
        ranks = train_ranks(
            2, data, tmp_path / name, *OPTIONS, "--max-update", updates, prepare=recorder
        )
        assert [rank.status for rank in ranks] == [0, 0], ranks
    for rank in (0, 1):
        assert [row["update"] for row in whole.rows(rank)] == list(range(1, 9))
        assert parts.rows(rank) == whole.rows(rank)
