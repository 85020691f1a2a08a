"""A run that is killed again and again at random moments: its ledger's history adds up.

Beside the ledger, each process counts the updates that it makes in a file of its own, a byte each; the kernel kills
it by SIGALRM, which nobody here catches, or it gets SIGTERM or SIGINT.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest

from metaseq_plugin.ledger.clock import BEAT_SECONDS
from metaseq_plugin.ledger.files import Ledger, read_ledger
from tests.distributed.test_lost_ranks import at_update
from tests.fairseq_runs import train, write_data

WITHOUT_A_WORD = signal.SIGALRM
EVERY, AN_EPOCH = 5, 11  # updates
OPTIONS = ("--save-interval-updates", EVERY, "--keep-interval-updates", 1, "--no-epoch-checkpoints",
           "--validate-interval-updates", 7, "--ledger-interval", 4)  # fmt: skip
KILLS = 20
SHARE_AT_START = 0.2
LAST = 5  # updates of the start that nobody stops
LONG_AGO = 1_000_000  # updates


class Attempt(NamedTuple):
    """One process, as it was seen from outside."""

    way: Optional[signal.Signals]
    status: int
    counted: int  # updates that it has made
    told_at: float  # seconds since 1970; 0: nobody told it to end


def count_updates(path: Path) -> None:
    from fairseq.trainer import Trainer

    step = Trainer.train_step

    def train_step(trainer: Any, samples: list[Any], raise_oom: bool = False) -> Any:
        output = step(trainer, samples, raise_oom)
        if output is not None:
            with path.open("ab") as stream:
                stream.write(b".")
        return output

    Trainer.train_step = train_step


def end_me(way: signal.Signals, seconds: float, path: Path) -> None:
    """This process gets ``way`` in so many seconds; ``path`` says when."""
    path.write_text(str(time.time() + seconds))
    if way == WITHOUT_A_WORD:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:
        threading.Timer(seconds, os.kill, (os.getpid(), way)).start()


def preparing(way: Optional[signal.Signals], draw: random.Random, path: Path) -> Callable[[], None]:
    amid_start, seconds = draw.random() < SHARE_AT_START, draw.uniform(0.0, 0.8) + 1e-3

    def prepare() -> None:
        count_updates(path)
        if way is not None and amid_start:
            end_me(way, seconds, path.with_suffix(".end"))
        elif way is not None:
            at_update(1, 0, lambda: end_me(way, seconds, path.with_suffix(".end")))(0)

    return prepare


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_adds_up(tmp_path: Path) -> None:
    data, run, draw = write_data(tmp_path / "data"), tmp_path / "run", random.Random(14)
    attempts: list[Attempt] = []
    for place in range(KILLS + 1):
        way = None if place == KILLS else draw.choice([WITHOUT_A_WORD] * 3 + [signal.SIGTERM])
        tally = read_ledger(run).tally
        goal = LONG_AGO if way or tally is None else tally.update + LAST
        path = tmp_path / f"counted-{place}"
        ended = train(data, run, *OPTIONS, "--max-update", goal, prepare=preparing(way, draw, path))
        counted = path.stat().st_size if path.exists() else 0
        when = path.with_suffix(".end")
        told_at = float(when.read_text()) if when.exists() else 0.0
        attempts.append(Attempt(way, ended.status, counted, told_at))
        assert ended.status in (0, -WITHOUT_A_WORD, -signal.SIGTERM, 128 + signal.SIGTERM), (
            ended.output
        )
        if counted and ended.status == -WITHOUT_A_WORD:
            check_when_it_ended(read_ledger(run), attempts[-1])
    check_history(read_ledger(run), attempts)


def check_history(ledger: Ledger, attempts: list[Attempt]) -> None:
    """Updates kept + lost = done, done is what was counted, and accounts sum to the seconds of each start."""
    ends = {end["start"]: end for end in ledger.of("end")}
    begun = {event["start"]: event["update"] for event in ledger.of("ready")}
    done = lost = reached = 0
    for start in ledger.starts:
        number = start["start"]
        told = ends[number] if number in ends else ledger.starts[number + 1]["before"]
        ended_at = told["time"] if number in ends else told["seen"]
        assert sum(told["accounts"].values()) == pytest.approx(ended_at - start["began"], rel=0.01)
        if number not in begun:  # killed before anything was loaded
            assert told["done"] == 0
            continue
        assert told["update"] - begun[number] == told["done"]
        lost += reached - begun[number]
        done, reached = done + told["done"], told["update"]
    assert done == reached + lost
    killed = sum(attempt.status == -WITHOUT_A_WORD for attempt in attempts)
    # A kill may come between an update and the ledger's count of it.
    counted = sum(attempt.counted for attempt in attempts)
    assert done <= counted <= done + killed
    assert killed >= KILLS / 2
    assert lost > 0
    assert [event["update"] for event in ledger.of("resume")] == [u for u in begun.values() if u]
    stopped = [event["update"] for event in ledger.of("signal")]
    for event in ledger.of("resume"):
        update = event["update"]
        assert update % EVERY == 0 or update % AN_EPOCH == 0 or update in stopped
    assert len(ledger.of("signal")) == sum(
        attempt.status == 128 + signal.SIGTERM for attempt in attempts
    )


def check_when_it_ended(ledger: Ledger, attempt: Attempt) -> None:
    """The latest start, which was ``attempt``, was seen until about a beat before the kernel killed it."""
    assert ledger.tally is not None
    # On a busy machine a beat may be late, and so may the kernel's signal.
    assert abs(attempt.told_at - ledger.tally.seen) < 5 * BEAT_SECONDS
