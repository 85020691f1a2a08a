"""How far a run is, and when its silence is a hang."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseq_plugin.compat import update_clock
from metaseq_plugin.launch.jobs.progress import HangWatch, Progress, clear, progress_file, read


def watch_of_updates_of(seconds: float, factor: float = 20.0, least: float = 60.0) -> HangWatch:
    """A watch that has seen updates 1 to 9, which took ``seconds`` each, from time 100 on."""
    watch = HangWatch(factor, least, 100.0)
    for update in range(1, 10):
        since = 100.0 + update * seconds
        assert watch.look(Progress(update, since, False), since) is None
    return watch


def test_a_hang_is_so_many_times_the_median_and_no_less_than_the_least() -> None:
    slow = watch_of_updates_of(10.0)
    at = Progress(9, 190.0, False)
    assert slow.look(at, 389.0) is None
    assert slow.look(at, 391.0) == 201.0
    quick = watch_of_updates_of(1.0)
    assert quick.look(Progress(9, 109.0, False), 168.0) is None
    assert quick.look(Progress(9, 109.0, False), 170.0) == 61.0


def test_starting_validating_and_saving_may_take_six_times_the_least() -> None:
    watch = HangWatch(20.0, 60.0, 100.0)
    assert watch.look(Progress(), 459.0) is None
    assert watch.look(Progress(), 461.0) == 361.0
    busy = watch_of_updates_of(1.0)
    assert busy.look(Progress(9, 109.0, True), 468.0) is None
    assert busy.look(Progress(9, 109.0, True), 470.0) == 361.0


def test_a_start_began_where_its_first_epoch_did() -> None:
    with progress_file() as path:
        clock = update_clock.UpdateClock(str(path))
        clock.tells_busy()
        assert read(path).begun is None
        clock.begin(20)
        clock.tell(21, False)
        clock.begin(30)
        assert (read(path).update, read(path).begun) == (30, 20)


def test_with_factor_0_nothing_is_a_hang() -> None:
    assert HangWatch(0.0, 60.0, 100.0).look(Progress(), 1e9) is None


def test_what_a_rank_writes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SimpleNamespace(updates=0)
    trainer.get_num_updates = lambda: trainer.updates
    seen: list[Progress] = []
    with progress_file() as path:
        assert read(path) == Progress(0, 0.0, True)
        monkeypatch.setenv(update_clock.VARIABLE, str(path))
        monkeypatch.delenv("LOCAL_RANK", raising=False)

        def validate_and_save(cfg: Any, trainer: Any) -> None:
            seen.append(read(path))
            update_clock.telling_it_is_busy(lambda: seen.append(read(path)))()
            seen.append(read(path))

        def train(cfg: Any, trainer: Any) -> None:
            seen.append(read(path))
            trainer.updates = 7
            update_clock.telling_each_update(validate_and_save)(cfg, trainer)

        def main(cfg: Any) -> None:
            update_clock.telling_the_beginning(train)(cfg, trainer)

        before = time.monotonic()
        update_clock.telling(main)(None)
        assert [(at.update, at.is_busy) for at in seen] == [
            (0, True),
            (7, False),
            (7, True),
            (7, False),
        ]
        assert {at.begun for at in seen} == {0}
        assert before <= seen[0].since <= seen[-1].since <= time.monotonic()
        clear(path)
        assert read(path) == Progress(0, 0.0, True)
    assert not Path(path).exists()


def test_of_the_ranks_of_a_machine_the_first_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it alone saves, the others are done at once."""
    main = update_clock.telling(lambda cfg: update_clock.telling_it_is_busy(lambda: None)())
    with progress_file() as path:
        monkeypatch.setenv(update_clock.VARIABLE, str(path))
        monkeypatch.setenv("LOCAL_RANK", "1")
        main(None)
        assert read(path) == Progress(0, 0.0, True)
        monkeypatch.setenv("LOCAL_RANK", "0")
        main(None)
        assert read(path).since > 0.0


def test_without_the_variable_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(update_clock.VARIABLE, raising=False)
    main = update_clock.telling(lambda cfg: update_clock.telling_it_is_busy(lambda: cfg)())
    assert main("done") == "done"
