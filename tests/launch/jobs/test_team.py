"""Agents of several nodes hear each other, know when one is gone, and let no stranger in."""

import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Callable

import pytest

from metaseq_plugin.launch.jobs import team
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
