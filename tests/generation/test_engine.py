"""The engine serves every job in full, each client in turn, and survives what fails."""

import threading
import time
from typing import Iterator

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import Request
from metaseq_plugin.generation.engine import (
    Begun,
    Ended,
    Engine,
    Overloaded,
)
from metaseq_plugin.generation.settings import Settings
from tests.generation.engine_worlds import (
    FakeBatch,
    Gate,
    Told,
    request,
    serve,
)
from tests.generation.test_batch import SETTINGS, alone, empty, every_fifth, random_prompts

EOS, VOCAB_SIZE = 2, 24


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(gate: Gate) -> Iterator[Engine]:
    """An engine with a batch of 100 tokens, whose steps the test allows one by one."""
    engine = Engine(FakeBatch(100, gate), max_batch_tokens=100, max_waiting=1000)
    yield engine
    gate.open()
    engine.close(drains=False)
    assert engine.statistics()[:3] == (0, 0, 0)
    assert engine.failure is None


def admitted(engine: Engine) -> list[Request]:
    assert isinstance(engine.batch, FakeBatch)
    return [wanted for group in engine.batch.admitted for wanted in group]


def test_jobs_get_what_they_get_alone() -> None:
    """From four threads at once, in a batch of an actual model."""
    prompts = random_prompts(40, 12, VOCAB_SIZE)
    wanted = [
        Request(prompt, 4 + i % 17, SETTINGS[2 + i % 4], 0, every_fifth if i % 3 else None, True)
        for i, prompt in enumerate(prompts)
    ]
    engine = Engine(empty("pre-norm"), max_batch_tokens=150, max_waiting=40)
    told = [Told(r.settings.num_samples) for r in wanted]

    def submit(part: int) -> None:
        for number in range(part, 40, 4):
            engine.submit(wanted[number], told[number], client=str(part))

    threads = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close(drains=True)
    for asked, heard in zip(wanted, told):
        rows = alone("pre-norm", asked)
        assert isinstance(heard.events[0], Begun)
        assert heard.events[0].prompt_scores == pytest.approx(rows[0].prompt_scores, abs=1e-5)
        assert [heard.tokens(sample) for sample in range(len(rows))] == [r.tokens for r in rows]
        assert heard.reasons == [row.finish_reason for row in rows]
        for event in heard.events:
            if isinstance(event, Ended):
                assert event.timings.first_token is not None
                assert 0 < event.timings.queued < event.timings.first_token < event.timings.total
    now = engine.statistics()
    assert now.tokens_read == sum(map(len, prompts))
    assert now.tokens_written == sum(
        len(heard.tokens(sample)) for heard in told for sample in range(3)
    )
    assert (now.submitted, now.refused, now.failed) == (40, 0, 0)
    assert now.tokens_per_second > 0


def test_clients_are_served_alike(gated: Engine, gate: Gate) -> None:
    """One with many jobs before one with few; and the tokens count, not the jobs."""
    blocker = gated.submit(request(99), Told())
    gate.wait()
    for _ in range(200):
        gated.submit(request(9, prompt=1), Told(), "many")
    for _ in range(20):
        gated.submit(request(49, prompt=1), Told(), "few")
    gated.cancel(blocker)
    gate.open()
    while gated.statistics().waiting > 100:
        time.sleep(0.001)
    served = {"many": 0, "few": 0}
    for wanted in admitted(gated)[1:]:
        if sum(served.values()) > 1800:  # both still have jobs
            break
        served["many" if wanted.limit == 9 else "few"] += len(wanted.prompt) + wanted.limit
    assert abs(served["many"] - served["few"]) <= 512 + 50 + 10


def test_a_large_job_is_not_overtaken_by_small_ones_for_ever(gated: Engine, gate: Gate) -> None:
    """Small jobs come without end, each when another has ended."""

    def again() -> None:
        if not large.ended.is_set():
            gated.submit(request(9), Told(on_end=again), "small")

    large = Told()
    for _ in range(12):
        gated.submit(request(9), Told(on_end=again), "small")
    gate.wait()
    gate.step()
    gated.submit(request(99), large, "large")
    before = len(admitted(gated))
    gate.open()
    large.wait()
    order = admitted(gated)[before:]
    waited = next(i for i, wanted in enumerate(order) if wanted.limit == 99)
    assert waited * 10 <= 100 + 512 + 10  # its own cost, a quantum, the dearest of the others


def test_what_is_next_is_not_overtaken_though_others_would_fit(gated: Engine, gate: Gate) -> None:
    first = serve(gated, request(59))
    gate.wait()
    big, small = serve(gated, request(59)), serve(gated, request(1))
    for _ in range(30):
        gate.step()
    assert [r.limit for r in admitted(gated)] == [59]
    gate.open()
    small.wait()
    first.wait()
    big.wait()
    assert [r.limit for r in admitted(gated)] == [59, 59, 1]


def test_prompts_are_read_a_bounded_number_of_tokens_a_step(gate: Gate) -> None:
    batch = FakeBatch(10_000, gate)
    engine = Engine(batch, 10_000, 100, max_prefill_tokens=100)
    serve(engine, request(50))
    gate.wait()
    lengths = [30, 30, 30, 30, 500, 5, 60, 40]
    told = [serve(engine, request(9, prompt=length)) for length in lengths]
    gate.open()
    for heard in told:
        heard.wait()
    engine.close(drains=True)
    sizes = [[len(wanted.prompt) for wanted in group] for group in batch.admitted[1:]]
    assert sizes == [[30, 30, 30], [30], [500], [5], [60], [40]]
    assert batch.largest > 500


def test_cancelled_job_gets_no_further_step(gated: Engine, gate: Gate) -> None:
    told, other, waiting = Told(2), Told(), Told()
    job = gated.submit(request(20, samples=2), told)
    gated.submit(request(20), other)
    gate.wait()
    gate.step()
    gate.step()
    late = gated.submit(request(90), waiting)
    gated.cancel(job)
    gated.cancel(late)
    had = len(told.tokens())
    gate.step()  # the one that was under way
    assert told.wait().reasons == ["cancelled", "cancelled"]
    assert len(told.tokens()) == had + 1
    assert waiting.wait().reasons == ["cancelled"]
    assert waiting.events[0] == waiting.events[-1]
    assert gated.statistics()[:3] == (0, 1, 21)
    gated.cancel(job)
    gate.open()
    assert other.wait().reasons == ["length"]
    assert len(other.tokens()) == 20


def test_deadlines_end_jobs_that_run_and_jobs_that_wait(gated: Engine, gate: Gate) -> None:
    running, waiting, far = Told(), Told(2), Told()
    gated.submit(request(80), running, deadline=time.monotonic() + 0.05)
    gated.submit(request(20, samples=2), waiting, deadline=time.monotonic() + 0.05)
    gated.submit(request(9), far, deadline=time.monotonic() + 3600)
    gate.wait()
    time.sleep(0.06)
    gate.open()
    assert running.wait().reasons == ["deadline"]
    assert len(running.tokens()) == 1
    assert waiting.wait().reasons == ["deadline", "deadline"]
    end = waiting.events[-1]
    assert isinstance(end, Ended)
    assert end.timings.first_token is None
    assert end.timings.queued == pytest.approx(end.timings.total, abs=0.01)
    assert far.wait().reasons == ["length"]


def test_a_full_queue_refuses_all_but_a_new_client(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, max_waiting=2)
    serve(engine, request(99), "a")
    gate.wait()
    told = [serve(engine, request(49), "a"), serve(engine, request(49), "a")]
    with pytest.raises(Overloaded, match="queue is full") as full:
        serve(engine, request(1), "a")
    assert full.value.retry_after == 1.0  # nothing has been measured
    told += [serve(engine, request(1), "b"), serve(engine, request(1), "c")]
    for client in "bcd":
        with pytest.raises(Overloaded):
            serve(engine, request(1), client)
    assert engine.statistics().refused == 4
    gate.open()
    for heard in told:
        heard.wait()
    assert serve(engine, request(1), "a").wait().reasons == ["length"]
    engine.close(drains=True)


def test_the_time_to_come_back_is_that_of_those_who_wait(gate: Gate) -> None:
    engine = Engine(FakeBatch(100, gate), 100, max_waiting=3)
    engine.pace.add(200, 4.0)
    serve(engine, request(99))
    gate.wait()
    for _ in range(3):
        serve(engine, request(99))
    with pytest.raises(Overloaded) as full:
        serve(engine, request(1))
    assert full.value.retry_after == pytest.approx(300 / 50)
    gate.open()
    engine.close(drains=False)


@pytest.mark.slow
def test_hundredfold_overload_is_refused_and_is_over_at_once() -> None:
    """Eight threads ask for far more than is done; then all that was accepted ends, and all is free."""
    engine = Engine(FakeBatch(200, lambda: time.sleep(0.01)), 200, max_waiting=20)
    told: list[Told] = []
    times: list[float] = []
    until = time.monotonic() + 3

    def flood(client: str) -> None:
        while time.monotonic() < until:
            try:
                told.append(serve(engine, request(19), client))
            except Overloaded as full:
                times.append(full.retry_after)

    threads = [threading.Thread(target=flood, args=(str(n % 2),)) for n in range(8)]
    for thread in threads:
        thread.start()
    largest = 0
    while any(thread.is_alive() for thread in threads):
        largest = max(largest, engine.statistics().waiting)
        time.sleep(0.01)
    assert 20 <= largest <= 22
    assert len(times) == engine.statistics().refused > 100 * len(told)
    assert min(times) >= 1
    assert max(times) < 60
    for heard in told:
        assert heard.wait().reasons == ["length"]
    assert serve(engine, request(5)).wait().reasons == ["length"]
    engine.close(drains=True)


REFUSED = {
    "beam": (Request([EOS], 5, Settings(beam=2)), "`beam` must be 1 where requests share a batch"),
    "samples": (request(1, samples=9), "`num_samples` must be at most 8"),
    "tokens": (request(60, prompt=41), "at most 100 tokens .* but takes 101"),
    "samples' tokens": (request(20, prompt=10, samples=4), "at most 100 tokens .* but takes 120"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_never_be_served_is_refused(case: str) -> None:
    engine = Engine(FakeBatch(100), 100, 5, max_batch_rows=8)
    wanted, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        serve(engine, wanted)
    assert serve(engine, request(59, prompt=41)).wait().reasons == ["length"]
    engine.close(drains=True)
