"""The last update of an epoch, where some ranks have a batch fewer: it weighs every token alike."""

from pathlib import Path

import pytest

from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

# 7 batches an epoch, dealt out to 2 ranks by twos: the second update has two for one rank, one for the other.
OPTIONS = (
    "--tokens-per-sample", 32, "--batch-size", 2, "--max-epoch", 2, "--dropout", 0, "--attention-dropout", 0,
    "--clip-norm", 0.005, "--lr", 0.001, "--adam-eps", 1e-5, "--disable-validation", "--no-save",
)  # fmt: skip
FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["chunked_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("backend", [(), FSDP], ids=["ddp", "fsdp"])
def test_two_ranks_are_one_process(backend: tuple, criterion: str, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=20, longest=32)
    runs = []
    for ranks in (1, 2):
        recorder = Recorder(tmp_path / f"rows{ranks}")
        folder, options = tmp_path / f"run{ranks}", (*OPTIONS, "--criterion", criterion)
        if ranks == 1:
            ended = [train(data, folder, *options, "--update-freq", 4, prepare=recorder)]
        else:
            options = (*options, "--update-freq", 2, *backend)
            ended = train_ranks(2, data, folder, *options, prepare=recorder)
        assert [rank.status for rank in ended] == [0] * ranks, ended[0].output[-2_000:]
        runs.append(
            [
                (float.fromhex(row["loss"]), float.fromhex(row["gnorm"]), row["ids"])
                for row in recorder.rows()
            ]
        )
    one, two = runs
    assert len(one) == len(two) == 4
    assert [len(ids) for *_, ids in one] == [4, 3, 4, 3]
    for (loss, norm, _), (other_loss, other_norm, _) in zip(one, two):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-5)
