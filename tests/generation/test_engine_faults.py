"""What fails takes its own jobs with it; closing and any order of calls leave nobody waiting."""

import gc
import random
import threading
import time
import tracemalloc
from typing import Any, Optional, Sequence

import pytest

from metaseq_plugin.compat.errors import LostRank, UserError
from metaseq_plugin.generation.batch import Batch, News, Request, Row
from metaseq_plugin.generation.engine import Closed, Engine, Event, Job, Overloaded, Token
from metaseq_plugin.generation.finite import NotFinite
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules.positions import POSITION_OFFSET
from tests.generation.engine_worlds import (
    PATIENCE,
    UNREADABLE,
    FakeBatch,
    Gate,
    Told,
    request,
    serve,
)
from tests.opt_models import PAD, TINY, decoder

EOS = 2


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_listener_that_raises_fails_its_own_job(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, 10)
    heard: list[Event] = []

    def failing(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Token):
            raise OSError("its client has gone")

    engine.submit(request(9, samples=2), failing)
    good = serve(engine, request(9))
    gate.wait()
    gate.step()
    assert len(heard) == 2  # Begun and a token
    assert engine.statistics()[:3] == (0, 1, 10)
    gate.open()
    assert good.wait().reasons == ["length"]
    engine.close(drains=True)
    assert len(heard) == 2
    assert engine.statistics().failed == 1


def test_a_job_fails_once_though_its_listener_does_too(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, 10)

    def failing(event: Event) -> None:
        raise OSError("its client has gone")

    engine.submit(request(9, first=UNREADABLE), failing)
    gate.open()
    engine.close(drains=True)
    assert engine.statistics().failed == 1


def test_a_prompt_that_cannot_be_read_fails_alone(gate: Gate) -> None:
    engine = Engine(FakeBatch(200, gate), 200, 10)
    running = serve(engine, request(20))
    gate.wait()
    told = [serve(engine, request(5, first=first)) for first in (EOS, UNREADABLE, EOS)]
    gate.open()
    assert [heard.wait().reasons for heard in (running, told[0], told[2])] == [["length"]] * 3
    assert isinstance(told[1].wait().error, UserError)
    engine.close(drains=True)


@pytest.mark.parametrize("max_rows", [3, 64])
@pytest.mark.parametrize("patience", [1, 5])
def test_rows_whose_logits_are_not_finite_fail_alone(patience: int, max_rows: int) -> None:
    """The vector of position 12 is NaN: so is all behind it, and nothing before it, padding aside."""
    model = OPTLanguageModel(decoder(**TINY))
    weight: Any = model.decoder.embed_positions.weight
    weight.data[POSITION_OFFSET + 12] = float("nan")
    batch = Batch([model], PAD, EOS)
    batch.patience = patience
    engine = Engine(batch, 1000, 20, max_rows)
    never = Settings(temperature=0.0, min_new_tokens=20)
    long, short = [EOS, *range(4, 18)], [EOS, 5, 6]
    told = [
        serve(engine, wanted)
        for wanted in [
            Request(short, 20, never),
            Request(short, 9, Settings(temperature=0.0, min_new_tokens=9)),
            Request(long, 5, Settings(temperature=0.0)),
            Request(long, 5, Settings(temperature=0.0, with_prompt_scores=True)),
            Request(short, 9, Settings(seed=1, num_samples=2, min_new_tokens=9)),
            Request(short, 20, Settings(seed=1, num_samples=2, min_new_tokens=20)),
        ]
    ]
    engine.close(drains=True)
    for number in (0, 2, 3, 5):
        assert isinstance(told[number].error, NotFinite)
    assert [told[n].tokens() for n in (2, 3)] == [[], []]
    for number in (0, 5):  # what was asked for in one go with the failure may not be told
        assert 10 - patience < len(told[number].tokens()) <= 10
    assert told[1].reasons == ["length"]
    assert told[4].reasons == ["length", "length"]
    assert [len(told[1].tokens()), len(told[4].tokens()), len(told[4].tokens(1))] == [9, 9, 9]
    assert engine.statistics()[:3] == (0, 0, 0)
    assert batch.rows == []


class Fragile(FakeBatch):
    """Fails in the step, admission or clearing it is told to, once."""

    fails_in = ""

    def fail(self, where: str) -> None:
        if self.fails_in == where:
            self.fails_in = ""
            raise RuntimeError(f"out of memory in {where}")

    def admit(self, requests: Sequence[Request]) -> list[Row]:
        self.fail("admit")
        return super().admit(requests)

    def step(self) -> list[News]:
        news = super().step()
        self.fail("step")
        return news

    def clear(self) -> None:
        super().clear()
        self.fail("clear")


def test_an_error_in_a_step_fails_what_is_under_way_and_the_rest_goes_on(gate: Gate) -> None:
    batch = Fragile(100, gate)
    engine = Engine(batch, 100, 10)
    running = [serve(engine, request(40)), serve(engine, request(40, samples=1))]
    gate.wait()
    waiting = serve(engine, request(90))
    batch.fails_in = "step"
    gate.open()
    for told in running:
        assert str(told.wait().error) == "out of memory in step"
    assert waiting.wait().reasons == ["length"]
    engine.close(drains=True)
    assert (engine.failure, engine.statistics().failed) == (None, 2)


def test_an_error_in_admission_fails_the_newcomer_too(gate: Gate) -> None:
    batch = Fragile(100, gate)
    engine = Engine(batch, 100, 10)
    running = serve(engine, request(40))
    gate.wait()
    newcomer, waiting = serve(engine, request(40)), serve(engine, request(90))
    batch.fails_in = "admit"
    gate.open()
    assert str(running.wait().error) == str(newcomer.wait().error) == "out of memory in admit"
    assert waiting.wait().reasons == ["length"]
    engine.close(drains=True)


def test_a_batch_that_cannot_be_cleared_closes_the_engine(gate: Gate) -> None:
    """All are told, and who comes later hears why."""

    class Dead(Fragile):
        def clear(self) -> None:
            raise RuntimeError("the device has gone")

    batch = Dead(100, gate)
    batch.fails_in = "step"
    engine = Engine(batch, 100, 10)
    running = serve(engine, request(40))
    gate.wait()
    waiting = serve(engine, request(90))
    gate.open()
    assert str(running.wait().error) == "out of memory in step"
    assert str(waiting.wait().error) == "the device has gone"
    engine.thread.join()
    with pytest.raises(Closed, match="takes no more requests: the device has gone"):
        serve(engine, request(1))
    engine.close(drains=True)
    assert engine.statistics()[:3] == (0, 0, 0)


def test_a_lost_rank_closes_the_engine() -> None:
    both = threading.Event()

    def lose() -> None:
        both.wait(PATIENCE)
        raise LostRank("Rank 1 has ended.")

    engine = Engine(FakeBatch(100, lose), 100, 10)
    told = [serve(engine, request(60)), serve(engine, request(60))]
    both.set()
    assert [str(heard.wait().error) for heard in told] == ["Rank 1 has ended."] * 2
    engine.thread.join()
    assert isinstance(engine.failure, LostRank)
    with pytest.raises(Closed, match="takes no more requests: Rank 1 has ended"):
        serve(engine, request(1))


def test_draining_ends_all_that_came_and_takes_no_more(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, 10)
    told = [serve(engine, request(90)) for _ in range(3)]
    gate.wait()
    closing = threading.Thread(target=engine.close, args=(True,))
    closing.start()
    while engine.closing is None:
        time.sleep(0.001)
    with pytest.raises(Closed, match="shutting down"):
        serve(engine, request(1))
    gate.open()
    closing.join(PATIENCE)
    assert [heard.reasons for heard in told] == [["length"]] * 3


def test_closing_at_once_cancels_even_what_is_being_drained(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, 10)
    told = [serve(engine, request(90)) for _ in range(3)]
    gate.wait()
    calls = [threading.Thread(target=engine.close, args=(drains,)) for drains in (True, False)]
    for call in calls:
        call.start()
    while engine.closing != "cancel":
        time.sleep(0.001)
    gate.open()
    for call in calls:
        call.join(PATIENCE)
    assert [heard.reasons for heard in told] == [["cancelled"]] * 3
    assert len(told[0].tokens()) == 1


def test_an_idle_engine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits without a time limit, once."""
    engine = Engine(FakeBatch(100), 100, 10)
    waits: list[Any] = []
    real = engine.changed.wait

    def wait(timeout: Optional[float] = None) -> bool:
        waits.append(timeout)
        return real(timeout)

    monkeypatch.setattr(engine.changed, "wait", wait)
    serve(engine, request(5)).wait()
    time.sleep(0.2)
    assert waits == [None]
    engine.close(drains=True)


def test_any_calls_from_eight_threads_leave_nobody_waiting() -> None:
    batch = FakeBatch(300)
    engine = Engine(batch, 300, 40, max_batch_rows=12, max_prefill_tokens=50)
    told: list[Told] = []

    def call(seed: int) -> None:
        draw = random.Random(seed)
        jobs: list[Job] = []
        for _ in range(150):
            samples = draw.choice([1, 1, 2, 5])
            wanted = request(
                draw.randint(1, 30), draw.randint(1, 30), samples, draw.choice([EOS] * 9 + [13])
            )
            deadline = time.monotonic() + draw.random() * 0.1 if draw.random() < 0.2 else None
            heard = Told(samples)
            try:
                jobs.append(engine.submit(wanted, heard, str(seed % 3), deadline))
                told.append(heard)
            except Overloaded:
                time.sleep(0.002)
            if jobs and draw.random() < 0.4:
                engine.cancel(draw.choice(jobs))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    engine.close(drains=True)
    reasons = [reason for heard in told for reason in heard.reasons]
    assert {"length", "cancelled", "deadline"} == set(reasons)
    assert all(heard.ended.is_set() for heard in told)
    assert engine.statistics()[:3] == (0, 0, 0)
    assert not engine.places
    assert engine.failure is None


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_jobs() -> None:
    batch = FakeBatch(1000)
    engine = Engine(batch, 1000, 100)

    def serve_many(count: int) -> None:
        for number in range(count // 50):
            told = [serve(engine, request(2), str(number * 50 + n)) for n in range(50)]
            for heard in told:
                heard.wait()
        batch.admitted.clear()
        gc.collect()

    tracemalloc.start()
    serve_many(1000)
    before, _ = tracemalloc.get_traced_memory()
    serve_many(10_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000  # two bytes a job
    engine.close(drains=True)
