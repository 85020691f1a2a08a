"""Agents of several nodes hear each other, know when one is gone, and let no stranger in."""

import socket
import time
from contextlib import ExitStack
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from types import SimpleNamespace
from typing import Callable

import pytest

from metaseq_plugin.launch.jobs import lock, team
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.team import GONE, FirstNode, OtherNode, Team, meet

SECRET = b"a secret of the job"


def nodes(port_seed: int) -> list[Place]:
    return [
        Place("local", "7", port_seed, node, ("127.0.0.1", "127.0.0.1"), 0) for node in range(2)
    ]


def heard_by(one: Team) -> list[tuple[int, team.Message]]:
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        found = one.heard()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("nothing was heard")


@pytest.fixture
def pair(free_number: int) -> tuple[FirstNode, OtherNode]:
    first_place, other_place = nodes(free_number)
    first = meet(first_place, 0, SECRET)
    other = meet(other_place, 0, SECRET)
    assert isinstance(first, FirstNode)
    assert isinstance(other, OtherNode)
    wait_until(lambda: 1 in first.connections)
    return first, other


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_hears_what_the_other_says(pair: tuple[FirstNode, OtherNode]) -> None:
    first, other = pair
    first.say({"kind": team.STACKS})
    other.say({"kind": team.ENDED, "failures": []})
    assert heard_by(other) == [(0, {"kind": "stacks"})]
    assert heard_by(first) == [(1, {"kind": "ended", "failures": []})]
    first.close()
    other.close()


def test_who_closes_is_gone(pair: tuple[FirstNode, OtherNode]) -> None:
    first, other = pair
    other.close()
    assert heard_by(first) == [(1, GONE)]
    assert first.heard() == []
    first.close()


def test_a_stranger_is_not_let_in_and_the_others_are(free_number: int) -> None:
    first_place, other_place = nodes(free_number)
    first = meet(first_place, 0, SECRET)
    address = ("127.0.0.1", first_place.ports(0)[1])
    with pytest.raises((AuthenticationError, OSError, EOFError)):
        Client(address, authkey=b"another")
    other = meet(other_place, 0, SECRET)
    wait_until(lambda: 1 in first.connections)
    first.close()
    other.close()


def test_a_stranger_who_says_nothing_keeps_nobody_waiting(free_number: int) -> None:
    first_place, other_place = nodes(free_number)
    first = meet(first_place, 0, SECRET)
    with ExitStack() as stack:
        for _ in range(3):
            address = ("127.0.0.1", first_place.ports(0)[1])
            stack.enter_context(socket.create_connection(address, timeout=20.0))
        other = meet(other_place, 0, SECRET)
        wait_until(lambda: 1 in first.connections)
        first.say({"kind": team.BYE})
        assert heard_by(other) == [(0, {"kind": "bye"})]
    first.close()
    other.close()


def test_a_stranger_who_says_nothing_is_sent_away(
    free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "SECONDS_TO_GREET", 1)
    first_place, _ = nodes(free_number)
    first = meet(first_place, 0, SECRET)
    with socket.create_connection(("127.0.0.1", first_place.ports(0)[1]), timeout=20.0) as silent:
        while silent.recv(1024):  # a challenge, and then the end
            pass
    assert not first.connections
    first.close()


def test_nodes_that_know_each_other_may_be_silent(
    free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is of the greeting alone."""
    monkeypatch.setattr(team, "SECONDS_TO_GREET", 1)
    first_place, other_place = nodes(free_number)
    first, other = meet(first_place, 0, SECRET), meet(other_place, 0, SECRET)
    wait_until(lambda: 1 in first.connections)
    time.sleep(1.5)
    assert first.heard() == other.heard() == []
    other.say({"kind": team.HELLO})
    assert heard_by(first) == [(1, {"kind": "hello"})]
    first.close()
    other.close()


def test_a_stranger_at_the_first_nodes_port_is_not_waited_for(
    free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "SECONDS_TO_GREET", 1)
    monkeypatch.setattr(team, "SECONDS_TO_MEET", 0.0)
    _, other_place = nodes(free_number)
    with (
        socket.create_server(("", other_place.ports(0)[1])),
        pytest.raises(OSError, match="the first node's does not answer"),
    ):
        meet(other_place, 0, SECRET)


def test_all_nodes_of_a_large_job_may_come_at_once(
    free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstNode, "_let_in", lambda self, listener, secret: None)  # it is slow
    place = Place("local", "7", free_number, 0, ("127.0.0.1",) * 124, 0)
    first = meet(place, 0, SECRET)
    with ExitStack() as stack:
        for _ in range(123):
            address = ("127.0.0.1", place.ports(0)[1])
            stack.enter_context(socket.create_connection(address, timeout=2.0))
    first.close()


def test_the_other_nodes_wait_while_the_first_waits_for_the_start_before(
    free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first node has not opened its port yet; the clock goes on by as long as it may wait for a lock."""
    first_place, other_place = nodes(free_number)
    opened: list[Team] = []
    clock = [time.monotonic()]

    def sleep(seconds: float) -> None:
        clock[0] += lock.PATIENCE_SECONDS / 10
        if clock[0] - begin >= lock.PATIENCE_SECONDS and not opened:
            opened.append(meet(first_place, 0, SECRET))

    begin = clock[0]
    monkeypatch.setattr(team, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    other = meet(other_place, 0, SECRET)
    other.close()
    opened[0].close()
