"""Work in processes: in order, with the first error, without orphans."""

import os
import signal
import time
from typing import Iterator

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.processes import AHEAD, WorkerDiedError, in_order


def slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.05 if number == 0 else 0)
    return number, os.getpid()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_items(num_workers: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = []
    for result in in_order(slow_first, items(), num_workers):
        results.append(result)
        assert len(taken) <= len(results) + AHEAD * num_workers
    assert [number for number, _ in results] == list(range(40))
    assert os.getpid() not in {pid for _, pid in results}


def odd_ones_fail(number: int) -> int:
    time.sleep(0.1 if number == 3 else 0)
    if number % 2:
        raise UserError(f"{number} is odd")
    return number


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_error_is_the_first_items(num_workers: int) -> None:
    results: list[int] = []
    with pytest.raises(UserError, match="3 is odd"):
        results.extend(in_order(odd_ones_fail, [2, 4, 3, 5, 7, 9], num_workers))
    assert results == [2, 4]


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(WorkerDiedError, match="fewer `--workers`"):
        list(in_order(die, range(5), 2))


def test_the_function_is_inherited() -> None:
    """What it holds need not be picklable, and is not sent with each item."""
    held = (number * 2 for number in range(3))  # a generator cannot be pickled

    def function(number: int) -> int:
        return number + sum(held)

    assert list(in_order(function, [1], 1)) == [7]
