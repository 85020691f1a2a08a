"""What the recorder writes of updates, and of its end, told by hand and without a run."""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from omegaconf import OmegaConf

from metaseq_plugin.compat.recorded_run import Sums
from metaseq_plugin.ledger import recorder as module
from metaseq_plugin.ledger.files import TALLY, ledger_folder, read_ledger
from metaseq_plugin.ledger.read_account import read_account
from metaseq_plugin.ledger.recorder import Recorder, opened, writing
from metaseq_plugin.ledger.tally import Tally, TallyFile, read_tally


def cfg_of(run: Path) -> Any:
    return OmegaConf.create(
        {"checkpoint": {"save_dir": str(run)}, "task": {}, "optimization": {"clip_norm": 1.0}}
    )


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(module, "began", lambda cfg: {})
    with ExitStack() as stack:
        recorder = opened(cfg_of(tmp_path), stack)
        recorder.clock.begins_at(0)
        recorder.event("ready", first_update=0)
        yield recorder


def make(recorder: Recorder, update: int, gnorm: Any = 1.0) -> None:
    recorder.computing()
    recorder.reduced(Sums([{"loss": 2.0, "ntokens": 2}], 2, gnorm))
    recorder.behind_update(update, 0.1, None)


def test_an_update_that_is_skipped_for_a_spike_has_gone_by(
    recorder: Recorder, tmp_path: Path
) -> None:
    make(recorder, 1)
    recorder.computing()
    recorder.skips("spike")
    recorder.behind_update(2, 0.1, None)
    ledger = read_ledger(tmp_path)
    assert [(event["update"], event["why"]) for event in ledger.of("skipped")] == [(2, "spike")]
    recorder.ended("finished")
    account = read_account(tmp_path)
    assert (account.update, account.updates.done, account.problems) == (2, 2, [])


def test_an_overflow_leaves_the_number_of_the_update(recorder: Recorder, tmp_path: Path) -> None:
    make(recorder, 1)
    recorder.computing()
    recorder.behind_update(1, 0.1, 64.0)
    assert (recorder.clock.update, recorder.clock.done) == (1, 1)


class OfABrokenDevice:
    def __float__(self) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_device_that_is_broken_does_not_hide_why_the_run_ended(
    recorder: Recorder, tmp_path: Path
) -> None:
    def train() -> None:
        with contextmanager(writing)(recorder) as found:
            make(found, 1, OfABrokenDevice())
            raise ValueError("the first mistake")

    with pytest.raises(ValueError, match="the first mistake"):
        train()
    ledger = read_ledger(tmp_path)
    assert ledger.events[-1]["reason"] == "ValueError: the first mistake"
    assert "illegal memory access" in ledger.of("missing")[0]["reason"]


def test_what_a_killed_start_had_done_is_kept_until_the_next_has_written_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ledger_folder(tmp_path) / TALLY
    killed = TallyFile(path)
    killed.write(Tally(0, 0, 17, 17, began=1.0, seen=9.0))
    killed.close()

    def began(cfg: Any) -> Any:
        raise KeyboardInterrupt  # a kill, while the data are hashed

    monkeypatch.setattr(module, "began", began)
    with ExitStack() as stack, pytest.raises(KeyboardInterrupt):
        opened(cfg_of(tmp_path), stack)
    found = read_tally(path)
    assert found is not None
    assert (found.start, found.done) == (0, 17)
