"""Clients are served in turn by cost, whatever they ask for and whenever they come."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.generation.fair_queue import FairQueue
from metaseq_plugin.generation.pace import HALF_LIFE, Pace

QUANTUM = 10


@dataclass(eq=False)
class Job:
    client: str
    cost: int


JOBS = st.builds(Job, st.sampled_from("abcd"), st.integers(1, 60))


def drained(queue: FairQueue[Job]) -> list[Job]:
    order = []
    while (job := queue.next()) is not None:
        queue.take()
        order.append(job)
    assert (len(queue), queue.cost, queue.lines, queue.credit) == (0, 0, {}, {})
    return order


@given(jobs=st.lists(JOBS, max_size=60), early=st.integers(0, 30))
def test_each_client_waits_for_so_much_of_the_others_and_no_more(
    jobs: list[Job], early: int
) -> None:
    queue: FairQueue[Job] = FairQueue(QUANTUM)
    for job in jobs[:-1]:
        queue.push(job)
    for _ in range(min(early, len(queue))):
        assert queue.next() is queue.next()
        queue.take()
    if jobs:  # comes while others are served
        queue.push(jobs[-1])
    waiting = list(queue)
    assert (len(queue), queue.cost) == (len(waiting), sum(job.cost for job in waiting))
    dearest = {job.client: 0 for job in jobs} | {
        client: max(job.cost for job in jobs if job.client == client)
        for client in {job.client for job in jobs}
    }
    order = drained(queue)
    assert sorted(map(id, order)) == sorted(map(id, waiting))
    for client in dearest:
        own = [job for job in order if job.client == client]
        assert own == [job for job in waiting if job.client == client]
        for number, job in enumerate(own):
            cost = sum(earlier.cost for earlier in own[: number + 1])
            before = order[: order.index(job)]
            for other in dearest.keys() - {client}:
                served = sum(job.cost for job in before if job.client == other)
                assert served <= cost + QUANTUM + dearest[other]


@given(jobs=st.lists(JOBS, min_size=2, max_size=30), data=st.data())
def test_who_leaves_is_not_served(jobs: list[Job], data: st.DataObject) -> None:
    queue: FairQueue[Job] = FairQueue(QUANTUM)
    for job in jobs:
        queue.push(job)
    gone = data.draw(st.lists(st.sampled_from(jobs), unique_by=id))
    queue.next()
    for job in gone:
        queue.remove(job)
    assert {id(job) for job in drained(queue)} == {id(j) for j in jobs} - {id(j) for j in gone}


def test_the_next_job_stays_the_next_whoever_comes() -> None:
    queue: FairQueue[Job] = FairQueue(QUANTUM)
    large = Job("a", 500)
    queue.push(large)
    assert queue.next() is large
    for client in "bcd":
        queue.push(Job(client, 1))
        assert queue.next() is large
    queue.take()
    assert [job.client for job in drained(queue)] == ["b", "c", "d"]


def test_pace_is_that_of_late() -> None:
    pace = Pace()
    assert (pace.per_second(), pace.seconds_for(1000)) == (0.0, 1.0)
    pace.add(100, 10.0)
    assert pace.per_second() == 10
    assert pace.seconds_for(50) == 5
    assert pace.seconds_for(1) == 1
    for _ in range(20):
        pace.add(int(100 * HALF_LIFE), HALF_LIFE)
    assert 99.9 < pace.per_second() < 100
