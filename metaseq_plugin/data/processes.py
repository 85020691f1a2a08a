"""Worker processes: forked, so that they share what is loaded, and gone when their parent is.

    for result in in_order(function, items, num_workers):  # in the order of ``items``

``follow_parent`` is what each of them does first; ``process_pool`` makes a bare pool of them, for
work that is handed out in another way.
"""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator, TypeVar

from metaseq_plugin.compat.errors import UserError

MAX_WORKERS = 1_024  # that a command takes
AHEAD = 2  # items of each worker that are waited for or worked on
_functions: list[Callable[[Any], Any]] = []  # a worker process of ``in_order`` has one
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDiedError(UserError):
    """A worker process was killed from outside."""


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and die with it: an orphan would go on holding its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def process_pool(num_workers: int) -> ProcessPoolExecutor:
    """Forked workers: they share what is loaded, and need not import torch again."""
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num_workers, context, initializer=follow_parent)


def _start(function: Callable[[Any], Any]) -> None:
    follow_parent()
    _functions.append(function)


def _call(item: Any) -> Any:
    return _functions[0](item)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """``function`` of each item, computed in ``num_workers`` processes, given in the items' order.

    At most AHEAD items a worker are in memory. The function is inherited, not sent, so it may hold
    something large. An error is that of the first item that has one,
    whatever the number of workers. Raises WorkerDiedError if a process is killed.
    """
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_workers, context, _start, (function,))
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(_call, item))
            if len(pending) >= AHEAD * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "A worker process must not be killed, but one was; perhaps memory ran out. Run the "
            "same command again with fewer `--workers`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
