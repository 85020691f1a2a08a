"""A batch without a model, and a listener that remembers, for tests of the engine."""

import threading
from typing import Callable, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import News, Request, Row
from metaseq_plugin.generation.engine import Ended, Engine, Event, Failed, Token
from metaseq_plugin.generation.settings import Settings

EOS = 2
UNREADABLE = 13  # a prompt that begins with it is refused
PATIENCE = 30.0  # seconds after which a test gives up waiting


def request(limit: int, prompt: int = 1, samples: int = 1, first: int = EOS) -> Request:
    """``prompt`` tokens, ``limit`` new ones."""
    return Request([first, *[5] * (prompt - 1)], limit, Settings(num_samples=samples))


class FakeBatch:
    """Gives each row token 7, a step each, up to its limit; holds the engine's promises as it goes.

    Attributes:
        admitted: the requests of each ``admit``.
        before_step: called first in each step.
    """

    def __init__(self, most: int, before_step: Callable[[], None] = lambda: None) -> None:
        self.most = most
        self.rows: list[Row] = []
        self.before_step = before_step
        self.admitted: list[list[Request]] = []
        self.steps = self.largest = 0

    def cost(self, wanted: Request) -> int:
        return (len(wanted.prompt) + wanted.limit) * wanted.settings.num_samples

    def admit(self, requests: Sequence[Request]) -> list[Row]:
        if any(wanted.prompt[0] == UNREADABLE for wanted in requests):
            raise UserError("A prompt must be readable, but is not. Set another.")
        self.admitted.append(list(requests))
        rows = [Row(r, r.limit, [], []) for r in requests for _ in range(r.settings.num_samples)]
        self.rows += rows
        size = sum(len(row.request.prompt) + row.limit for row in self.rows)
        self.largest = max(self.largest, size)
        assert size <= self.most
        return rows

    def step(self) -> list[News]:
        self.before_step()
        self.steps += 1
        news = [row.take(7, 0.0, [], EOS) for row in self.rows]
        self.rows = [row for row in self.rows if row.finish_reason is None]
        return news

    def cancel(self, row: Row) -> None:
        row.finish_reason = "cancelled"
        self.rows.remove(row)

    def clear(self) -> None:
        self.rows = []


class Gate:
    """Lets the engine's thread take so many steps as it is told, and waits until it has."""

    def __init__(self) -> None:
        self.allowed, self.arrived = threading.Semaphore(0), threading.Semaphore(0)
        self.is_open = False

    def __call__(self) -> None:
        self.arrived.release()
        if not self.is_open:
            assert self.allowed.acquire(timeout=PATIENCE)

    def wait(self) -> None:
        """Until the thread stands before a step."""
        assert self.arrived.acquire(timeout=PATIENCE)

    def step(self) -> None:
        """One step, and all up to the next."""
        self.allowed.release()
        self.wait()

    def open(self) -> None:
        self.is_open = True
        self.allowed.release()


class Told:
    """A listener, and what it was told."""

    def __init__(self, samples: int = 1, on_end: Optional[Callable[[], None]] = None) -> None:
        self.events: list[Event] = []
        self.open = samples
        self.on_end = on_end
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        assert not self.ended.is_set(), "told after its end"
        self.events.append(event)
        self.open -= isinstance(event, Ended)
        if self.open == 0 or isinstance(event, Failed):
            self.ended.set()
            if self.on_end is not None:
                self.on_end()

    def wait(self) -> "Told":
        assert self.ended.wait(PATIENCE)
        return self

    def tokens(self, sample: int = 0) -> list[int]:
        return [e.token for e in self.events if isinstance(e, Token) and e.sample == sample]

    @property
    def reasons(self) -> list[str]:
        """By sample."""
        ends = sorted(event for event in self.events if isinstance(event, Ended))
        return [event.finish_reason for event in ends]

    @property
    def error(self) -> Exception:
        assert isinstance(self.events[-1], Failed)
        return self.events[-1].error


def serve(engine: Engine, wanted: Request, client: str = "") -> Told:
    told = Told(wanted.settings.num_samples)
    engine.submit(wanted, told, client)
    return told
