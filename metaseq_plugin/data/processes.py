"""Worker processes: forked, so that they share what is loaded, and gone when their parent is.

    for result in in_order(function, items, num_workers):  # in the order of ``items``

``add_workers_option`` gives a command its ``--workers``, and ``check_workers`` checks it.
``process_pool`` makes a pool for work that is handed out in another way: its processes inherit a function,
which ``call_inherited`` calls there. ``killed_means`` says in one sentence that one of them was killed.
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

from metaseq_plugin.compat.errors import UserError

MAX_WORKERS = 1_024  # that a command takes
AHEAD = 2  # items of each worker that are waited for or worked on
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDiedError(UserError):
    """A worker process was killed from outside."""


@contextmanager
def killed_means(sentence: str) -> Iterator[None]:
    """Raise WorkerDiedError with ``sentence`` where a process of a pool turns out to be killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerDiedError(sentence) from error


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=available_cores(), metavar="N",
        help="processes (default: all cores, %(default)s; the result is the same)")  # fmt: skip


def check_workers(num_workers: int) -> None:
    """Raise UserError for ``--workers`` out of range."""
    if not 1 <= num_workers <= MAX_WORKERS:
        raise UserError(
            f"`--workers` must be between 1 and {MAX_WORKERS:,}, but is {num_workers:,}. "
            "Set it to the number of cores."
        )


class _Inherited:
    """What this process was forked for, if it is a worker."""

    function: Optional[Callable[[Any], Any]] = None


def _start(function: Optional[Callable[[Any], Any]]) -> None:
    """Leave signals to the parent, and die with it: an orphan would go on holding its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _Inherited.function = function


def process_pool(
    num_workers: int, function: Optional[Callable[[Any], Any]] = None
) -> ProcessPoolExecutor:
    """Forked workers: they share what is loaded, and need not import torch again.

    Args:
        function: what ``call_inherited`` calls. It is inherited, not sent, so it may hold something large.
    """
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num_workers, context, _start, (function,))


def call_inherited(item: Any) -> Any:
    """In a worker: the pool's function of ``item``."""
    assert _Inherited.function is not None, "this pool has no function"
    return _Inherited.function(item)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """``function`` of each item, computed in ``num_workers`` processes, given in the items' order.

    At most AHEAD items a worker are in memory. An error is that of the first item that has one,
    whatever the number of workers. Raises WorkerDiedError if a process is killed.
    """
    pool = process_pool(num_workers, function)
    pending: deque[Future[Result]] = deque()
    killed = killed_means(
        "A worker process must not be killed, but one was; perhaps memory ran out. Run the same "
        "command again with fewer `--workers`."
    )
    try:
        with killed:
            for item in items:
                pending.append(pool.submit(call_inherited, item))
                if len(pending) >= AHEAD * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
