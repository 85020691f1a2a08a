"""Who is next: clients in turn by what their jobs cost, each client's jobs in the order in which they came.

Deficit round robin (Shreedhar and Varghese, 1995): at each turn a client is given a quantum of credit,
its jobs are paid from it, and what is left is kept while it has jobs. So until a client's jobs of cost c
together have been served, each other client is served at most c + quantum + its own dearest job: nobody
waits for ever, and who has many jobs gets no more than who has few.

The next job stays the next until it is taken or leaves, whatever else comes.
"""

from collections import OrderedDict, deque
from typing import Deque, Generic, Iterator, Optional, Protocol, TypeVar


class Costly(Protocol):
    """What can wait in line."""

    @property
    def client(self) -> str: ...

    @property
    def cost(self) -> int: ...


T = TypeVar("T", bound=Costly)


class FairQueue(Generic[T]):
    """Jobs in line.

    Args:
        quantum: credit of a turn, in units of cost.

    Attributes:
        lines: the jobs of each client that has some; the first client has its turn.
        cost: of all jobs together.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.lines: OrderedDict[str, Deque[T]] = OrderedDict()
        self.credit: dict[str, int] = {}
        self.count = 0
        self.cost = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[T]:
        for line in self.lines.values():
            yield from line

    def push(self, job: T) -> None:
        """Put ``job`` behind the others of its client."""
        is_first = not self.lines
        if job.client not in self.lines:
            self.lines[job.client] = deque()
            self.credit[job.client] = 0
        self.lines[job.client].append(job)
        self.count += 1
        self.cost += job.cost
        if is_first:
            self.begin_turn()

    def begin_turn(self) -> None:
        """Give the first client its quantum."""
        self.credit[next(iter(self.lines))] += self.quantum

    def next(self) -> Optional[T]:
        """The next job, which stays in line; None: there is none."""
        while self.lines:
            client, line = next(iter(self.lines.items()))
            if line[0].cost <= self.credit[client]:
                return line[0]
            self.lines.move_to_end(client)
            self.begin_turn()
        return None

    def take(self) -> None:
        """Serve the next job: its client pays for it."""
        job = self.next()
        assert job is not None
        self.credit[job.client] -= job.cost
        self.remove(job)

    def remove(self, job: T) -> None:
        """Let ``job`` leave unserved."""
        line = self.lines[job.client]
        line.remove(job)
        self.count -= 1
        self.cost -= job.cost
        if not line:
            is_first = job.client == next(iter(self.lines))
            del self.lines[job.client], self.credit[job.client]
            if is_first and self.lines:
                self.begin_turn()
