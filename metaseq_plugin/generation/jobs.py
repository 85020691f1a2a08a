"""A request on its way through the engine, and what its listener is told.

Begun once its prompt has been read, then Token by Token, and Ended once for each sample. Failed may come at
any time; it ends all samples. A job that never gets into the batch is told Ended or Failed only.
"""

import time
from typing import Callable, NamedTuple, Optional, Union

from metaseq_plugin.generation.batch import Request, Row
from metaseq_plugin.generation.settings import TopScores


class Begun(NamedTuple):
    """The prompt has been read."""

    prompt_scores: list[float]  # as in Row
    prompt_top_scores: list[TopScores]


class Token(NamedTuple):
    """A sample has got a token."""

    sample: int  # from 0 to ``num_samples`` - 1
    token: int
    score: Optional[float]  # natural log-probability, where asked for
    top_scores: TopScores


class Timings(NamedTuple):
    """Seconds since the job was submitted."""

    queued: float  # until it was admitted, or ended without
    first_token: Optional[float]  # until its first token, of whichever sample; None: it got none
    total: float  # until now


class Ended(NamedTuple):
    """A sample gets no more."""

    sample: int
    finish_reason: str  # "eos", "stop", "length", "cancelled" or "deadline"
    timings: Timings


class Failed(NamedTuple):
    """The job gets no more, for this error. A UserError is the request's or the model's own fault."""

    error: Exception


Event = Union[Begun, Token, Ended, Failed]
Listener = Callable[[Event], None]


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds in which, at the pace of late, those who wait now will have been served.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after:.0f} seconds.")
        self.retry_after = retry_after


class Closed(Exception):
    """The engine takes no more jobs."""


class Job:
    """A request on its way, as ``Engine.submit`` gives it back."""

    def __init__(
        self,
        request: Request,
        listener: Listener,
        client: str,
        deadline: Optional[float],
        cost: int,
    ) -> None:
        self.request = request
        self.listener = listener
        self.client = client
        self.deadline = deadline  # on the clock of time.monotonic
        self.cost = cost  # in tokens of the batch, each sample's share alike
        samples = request.settings.num_samples
        self.row_cost = cost // samples
        self.open = list(range(samples))  # samples that have not ended
        self.rows: dict[int, Row] = {}  # of each sample, once it is admitted
        self.told = [0] * samples  # tokens of each sample
        self.is_deaf = False  # its listener failed and is told no more
        self.is_cancelled = False
        self.submitted = time.monotonic()
        self.admitted: Optional[float] = None
        self.first_token: Optional[float] = None

    def timings(self) -> Timings:
        now, first = time.monotonic(), self.first_token
        queued = (self.admitted or now) - self.submitted
        return Timings(queued, first and first - self.submitted, now - self.submitted)
