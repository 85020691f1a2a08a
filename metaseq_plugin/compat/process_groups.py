"""A process leaves its process groups when it exits: NCCL complains of one that has not.

(1) A rank among others leaves where its run ended well: fairseq has waited for all of them. Where it ended by an error
    it does not: others may be gone, or wait in a group, and the ranks still compare notes (``last_words``).
(2) A rank alone has a group where it shards its model; it leaves however the run ends, as there is nobody to wait for.

Not at the end of the run: a process may train once more, and fairseq and the grid keep the groups they had.
"""

import atexit
from functools import wraps
from typing import Any, Callable

import torch.distributed as dist


def leave() -> None:
    """Leave all groups of this process, if it is in any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_alone() -> bool:
    """Whether this process is the only one of its group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() == 1


def leaving_together(distributed_main: Callable[..., Any]) -> Callable[..., Any]:
    """``distributed_main`` of a rank, whose last act is to wait for the others."""

    @wraps(distributed_main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        atexit.unregister(leave)  # of a run before
        result = distributed_main(*args, **kwargs)
        atexit.register(leave)
        return result

    return wrapper


def leaving_alone(call_main: Callable[..., Any]) -> Callable[..., Any]:
    """``call_main``, which runs a single process's run right away; a group that was there before it stays."""

    @wraps(call_main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        was_there = dist.is_available() and dist.is_initialized()
        try:
            return call_main(*args, **kwargs)
        finally:
            if not was_there and is_alone():
                atexit.register(leave)

    return wrapper
