"""Where time goes, to the last moment, and the numbers of a window of updates."""

import math
import time
from pathlib import Path
from typing import Iterator

import pytest
import torch

from metaseq_plugin.compat.recorded_run import Sums
from metaseq_plugin.ledger.clock import BEAT_SECONDS, Clock
from metaseq_plugin.ledger.tally import ACCOUNTS, TallyFile, read_tally
from metaseq_plugin.ledger.window import Window

LONG = 0.05  # seconds


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    with Clock(TallyFile(tmp_path / "tally"), start=2, began=time.time() - 10) as clock:
        yield clock


def test_every_moment_counts_to_one_account(clock: Clock) -> None:
    clock.switch("computing")
    time.sleep(LONG)
    with clock.within("validating"):
        time.sleep(LONG)
        with clock.within("saving"):
            time.sleep(LONG)
    clock.switch("waiting")
    time.sleep(LONG)
    accounts = clock.seconds_by_account()
    assert sum(accounts.values()) == pytest.approx(clock.seconds, abs=0.01)
    assert accounts.pop("starting") == pytest.approx(10, abs=0.5)
    assert accounts.pop("rewinding") == 0
    assert all(LONG <= seconds < LONG + 0.5 for seconds in accounts.values()), accounts


def test_a_block_that_fails_ends_its_account(clock: Clock) -> None:
    clock.switch("computing")
    with pytest.raises(ZeroDivisionError), clock.within("saving"):
        1 / 0  # noqa: B018
    assert clock.account == "computing"


def test_the_tally_says_what_the_clock_knows(clock: Clock, tmp_path: Path) -> None:
    clock.begins_at(40)
    clock.switch("computing")
    clock.made(41)
    clock.made(42)
    clock.unwritten(3)
    found = read_tally(tmp_path / "tally")
    assert found is not None
    assert (found.start, found.first_update, found.update, found.done) == (2, 40, 42, 2)
    assert (found.unwritten, found.has_ended) == (3, 0)
    assert sum(found.accounts) == pytest.approx(found.seen - found.began, abs=1e-3)
    assert found.seen == pytest.approx(time.time(), abs=0.5)
    clock.ended()
    found = read_tally(tmp_path / "tally")
    assert found is not None
    assert found.has_ended == 1
    assert found.update == 42


def test_the_tally_goes_on_while_nothing_is_told(clock: Clock, tmp_path: Path) -> None:
    clock.switch("computing")
    before = read_tally(tmp_path / "tally")
    deadline = time.monotonic() + 20 * BEAT_SECONDS
    while read_tally(tmp_path / "tally") == before and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 10)
    after = read_tally(tmp_path / "tally")
    assert before is not None
    assert after is not None
    assert after.seen > before.seen
    assert after.seconds_by_account["computing"] > before.seconds_by_account["computing"]


def test_a_clock_that_was_set_back_leaves_no_negative_time(tmp_path: Path) -> None:
    with Clock(TallyFile(tmp_path / "tally"), 0, began=time.time() + 100) as clock:
        assert all(seconds >= 0 for seconds in clock.seconds_by_account().values())


def test_the_numbers_of_a_window() -> None:
    at_first = dict.fromkeys(ACCOUNTS, 1.0)
    window = Window(clip_norm=2.0, seconds=5.0, accounts=at_first)
    # Two micro-batches, as tensors; then sums of all ranks, as numbers.
    window.add(
        Sums(
            [{"loss": torch.tensor(30.0), "ntokens": 10}, {"loss": torch.tensor(50.0), "ntokens": 10}],
            torch.tensor(20),
            torch.tensor(1.0),
        )
    )  # fmt: skip
    window.add(Sums([{"loss": 10.0, "ntokens": 30, "other": 1}], 30.0, torch.tensor([3.0])))
    at_end = {**at_first, "computing": 3.0, "saving": 1.5}
    row = window.row(lr=0.1, loss_scale=None, seconds=8.0, accounts=at_end)
    assert row == {
        "updates": 2, "ntokens": 50, "loss": pytest.approx(90 / 50 / math.log(2)), "gnorm": 2.0,
        "clip": 50.0, "lr": 0.1, "seconds": 3.0, "computing": 2.0, "waiting": 0.0, "saving": 0.5,
        "validating": 0.0, "rewinding": 0.0,
    }  # fmt: skip
    assert window.row(0.1, 128.0, 8.0, at_end)["loss_scale"] == 128.0


def test_a_window_without_clipping_and_tokens() -> None:
    window = Window(0.0, 0.0, dict.fromkeys(ACCOUNTS, 0.0))
    window.add(Sums([], 0, 1.0))
    row = window.row(0.1, None, 1.0, dict.fromkeys(ACCOUNTS, 0.0))
    assert row["loss"] is None
    assert row["ntokens"] == 0
    assert "clip" not in row
