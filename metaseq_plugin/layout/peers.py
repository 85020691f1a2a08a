"""The ranks that save or load a set together, and what they tell each other.

``Ranks`` is all that saving and loading know of torch.distributed: who am I, gather a small object,
wait for all. A run of one process is ``ALONE``; tests use threads.
"""

from typing import Any, Callable, List, Optional, TypeVar

import torch.distributed as dist

from metaseq_plugin.compat.errors import UserError

T = TypeVar("T")


class Ranks:
    """Processes that call the same methods in the same order; this class itself is one alone."""

    rank = 0
    size = 1

    def all_gather(self, value: Any) -> List[Any]:
        """The ``value`` of every rank, in the order of ranks."""
        return [value]

    def barrier(self) -> None:
        """Return when every rank has called."""
        self.all_gather(None)


ALONE = Ranks()


class GroupRanks(Ranks):
    """The ranks of a process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def all_gather(self, value: Any) -> List[Any]:
        gathered: List[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered


def ranks_of(group: Optional[dist.ProcessGroup]) -> Ranks:
    """The ranks of ``group``; None, or a group of one, is this process alone."""
    if group is None or dist.get_world_size(group) == 1:
        return ALONE
    return GroupRanks(group)


def all_ranks() -> Ranks:
    """Every rank of the run."""
    return ranks_of(dist.group.WORLD if dist.is_initialized() else None)


def on_first(ranks: Ranks, make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank; its mistake is raised on every rank too."""
    result: Any = None
    mistake: Optional[Exception] = None
    if ranks.rank == 0:
        try:
            result = make()
        except (UserError, OSError) as error:
            mistake = error
    result, mistake = ranks.all_gather((result, mistake))[0]
    if mistake is not None:
        raise mistake
    return result


def agree(ranks: Ranks, problem: Optional[str]) -> None:
    """Raise the first rank's problem on every rank, if any rank has one."""
    for found in ranks.all_gather(problem):
        if found is not None:
            raise UserError(found)
