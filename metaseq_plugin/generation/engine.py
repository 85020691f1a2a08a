"""One thread that owns a running batch, and serves whoever asks from any thread.

    engine = Engine(Batch(models, pad, eos), max_batch_tokens=16_384, max_waiting=256)
    job = engine.submit(Request(prompt, 64, Settings(), streamed=True), print, client="alice")
    engine.cancel(job)
    engine.close(drains=True)

What the thread does, again and again while there are jobs; without any it sleeps: (1) end the jobs that
were cancelled or are past their deadline; (2) admit waiting ones, clients in turn (``fair_queue``); (3)
take a step; (4) tell each listener what its job has got.

A job is told Begun, then Token by Token, and Ended once per sample; or Failed, which ends all of it.

Who waits: the next job is admitted as soon as its rows fit, and none before it, however small. So it waits
no longer than the rows under way take to reach their limits, and before it each other client is served at
most so much as ``fair_queue`` says: no job starves. Rows under way wait for others' prompts at most
``max_prefill_tokens`` a step, or one longer prompt.

What fails: rows with logits that are not finite, and prompts that cannot be read, take their own jobs with
them; a listener that raises, its own. Any other error in a step fails the jobs under way, and the batch is
cleared for those that wait. If that fails too, or another rank is gone, the engine is closed, and says why.
"""

import logging
import threading
import time
from typing import Iterable, NamedTuple, Optional, Protocol, Sequence

from metaseq_plugin.compat.errors import LostRank, UserError
from metaseq_plugin.generation.batch import News, Request, Row
from metaseq_plugin.generation.fair_queue import FairQueue
from metaseq_plugin.generation.finite import NotFinite
from metaseq_plugin.generation.generator import MAX_BATCH_ROWS
from metaseq_plugin.generation.jobs import (
    Begun,
    Closed,
    Ended,
    Event,
    Failed,
    Job,
    Listener,
    Overloaded,
    Token,
)
from metaseq_plugin.generation.pace import Pace

logger = logging.getLogger(__name__)

# Prompt tokens that are read in one step, padding included: rows under way wait for them.
MAX_PREFILL_TOKENS = 2048
# Of a client's turn in tokens: an ordinary request or a few.
QUANTUM = 512


class Statistics(NamedTuple):
    """The engine now, and what it has done so far."""

    waiting: int  # jobs
    running: int  # rows
    reserved_tokens: int  # of ``max_batch_tokens``
    tokens_read: int  # of prompts
    tokens_written: int
    steps: int
    submitted: int  # jobs that were accepted
    refused: int  # jobs that found the queue full
    failed: int  # jobs
    tokens_per_second: float  # read, written, or no longer to be written, of late; 0: not known yet


class SteppingBatch(Protocol):
    """What the engine needs of ``batch.Batch``; all but ``cost`` is called on its thread alone."""

    def cost(self, request: Request) -> int: ...
    def admit(self, requests: Sequence[Request]) -> list[Row]: ...
    def step(self) -> list[News]: ...
    def cancel(self, row: Row) -> None: ...
    def clear(self) -> None: ...


class Engine:
    """Serves jobs from one batch.

    Args:
        batch: used by the engine alone.
        max_batch_tokens: most tokens that the rows under way may come to, as ``batch.cost`` counts them.
        max_waiting: most jobs that wait. Beyond it a client that has none waiting may still have one,
            so that nobody is shut out by another's flood, up to twice as many in all.
        max_batch_rows: most rows under way.
        max_prefill_tokens: most prompt tokens read in one step, padding included.

    Attributes:
        failure: what ended the thread, where that was an error.
    """

    def __init__(
        self,
        batch: SteppingBatch,
        max_batch_tokens: int,
        max_waiting: int,
        max_batch_rows: int = MAX_BATCH_ROWS,
        max_prefill_tokens: int = MAX_PREFILL_TOKENS,
    ) -> None:
        self.batch = batch
        self.max_batch_tokens = max_batch_tokens
        self.max_waiting = max_waiting
        self.max_batch_rows = max_batch_rows
        self.max_prefill_tokens = max_prefill_tokens
        self.changed = threading.Condition()  # holds for ``waiting`` and ``closing``
        self.waiting: FairQueue[Job] = FairQueue(QUANTUM)
        self.closing: Optional[str] = None  # "drain" or "cancel"
        self.failure: Optional[Exception] = None
        # The thread's own: others only read counts.
        self.live: dict[Job, None] = {}  # taken from the queue and not ended, in order
        self.places: dict[Row, tuple[Job, int]] = {}  # whose sample an admitted row is
        self.reserved = self.running = 0  # tokens and rows of the live jobs
        self.done = 0  # tokens read, written, or no longer to be written
        self.pace = Pace()
        self.tokens_read = self.tokens_written = self.steps = 0
        self.submitted = self.refused = self.failed = 0
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self.thread.start()

    def submit(
        self,
        request: Request,
        listener: Listener,
        client: str = "",
        deadline: Optional[float] = None,
    ) -> Job:
        """Put a request in line.

        Args:
            request: its prompt must have passed ``Generator.check_prompts``, its settings
                ``check_settings``; its limit should be no more than the model can write.
            listener: called with each event, on the engine's thread, which waits for it meanwhile.
            client: whose turn it takes: clients are served alike, however many jobs they have.
            deadline: when it ends, finished or not, on the clock of ``time.monotonic``.

        Raises:
            UserError: it asks for what no batch of this engine has room for, or for beam search.
            Overloaded: the queue is full.
            Closed: the engine is closed.
        """
        job = Job(request, listener, client, deadline, self.cost(request))
        with self.changed:
            if self.closing is not None:
                reason = "it is shutting down." if self.failure is None else str(self.failure)
                raise Closed(f"The engine takes no more requests: {reason}")
            is_full = len(self.waiting) >= self.max_waiting
            if is_full and (
                client in self.waiting.lines or len(self.waiting) >= 2 * self.max_waiting
            ):
                self.refused += 1
                raise Overloaded(self.pace.seconds_for(self.waiting.cost))
            self.submitted += 1
            self.waiting.push(job)
            self.changed.notify_all()
        return job

    def cost(self, request: Request) -> int:
        """Tokens of the batch that ``request`` takes; UserError where it can never be served."""
        settings = request.settings
        if settings.beam > 1:
            raise UserError(
                f"`beam` must be 1 where requests share a batch, but is {settings.beam}. "
                "Search with `metaseq generate` or from Python."
            )
        if settings.num_samples > self.max_batch_rows:
            raise UserError(
                f"`num_samples` must be at most {self.max_batch_rows}, the rows of a batch, but is "
                f"{settings.num_samples}. Set fewer, or ask several times."
            )
        cost = self.batch.cost(request)
        if cost > self.max_batch_tokens:
            raise UserError(
                f"A request must take at most {self.max_batch_tokens} tokens of the batch, its prompt "
                f"and `max_new_tokens` for each of `num_samples`, but takes {cost}. "
                "Set `max_new_tokens` lower."
            )
        return cost

    def cancel(self, job: Job) -> None:
        """End ``job`` before the next step, if it has not ended; its listener is told."""
        job.is_cancelled = True

    def close(self, drains: bool) -> None:
        """Take no more jobs; return when all have ended. Not for listeners.

        Args:
            drains: let the present ones finish, those that wait too; else cancel them. A second call
                may cancel what a first one drains.
        """
        with self.changed:
            self.closing = "drain" if drains and self.closing != "cancel" else "cancel"
            self.changed.notify_all()
        self.thread.join()

    def statistics(self) -> Statistics:
        return Statistics(
            len(self.waiting), self.running, self.reserved, self.tokens_read, self.tokens_written,
            self.steps, self.submitted, self.refused, self.failed, self.pace.per_second(),
        )  # fmt: skip

    def run(self) -> None:
        """What the thread does."""
        try:
            while self.has_work():
                begin, before = time.monotonic(), self.done
                self.turn()
                self.pace.add(self.done - before, time.monotonic() - begin)
        except Exception as error:
            if not isinstance(error, LostRank):  # else a sentence says it all
                logger.exception("the engine ends")
            with self.changed:
                self.failure, self.closing = error, "cancel"
                waiting = list(self.waiting)
                for job in waiting:
                    self.waiting.remove(job)
            self.fail([*self.live, *waiting], error)

    def has_work(self) -> bool:
        """Sleep until there is a job; False: there is none and will be none."""
        with self.changed:
            while not self.waiting and not self.live and self.closing is None:
                self.changed.wait()
            return bool(self.waiting or self.live)

    def turn(self) -> None:
        """One step, and what is done before and after it."""
        try:
            self.end_early()
            self.admit(self.newcomers())
            if self.live:
                self.step()
        except LostRank:
            raise
        except Exception as error:
            logger.exception("a step failed, and with it the requests under way")
            self.fail(list(self.live), error)
            self.batch.clear()

    def step(self) -> None:
        """Let the batch take a step, and hand out what has become known."""
        self.steps += 1
        try:
            news = self.batch.step()
        except NotFinite as error:
            if not self.blame(error):
                raise
        else:
            self.tell(news)

    def end_early(self) -> None:
        """End jobs that were cancelled or are past their deadline."""
        now = time.monotonic()
        ending = []
        with self.changed:
            for job in [*self.waiting, *self.live]:
                if job.is_cancelled or self.closing == "cancel":
                    ending.append((job, "cancelled"))
                elif job.deadline is not None and now >= job.deadline:
                    ending.append((job, "deadline"))
            for job, _ in ending:
                if job not in self.live:
                    self.waiting.remove(job)
        for job, reason in ending:
            self.cancel_rows(job)
            samples = job.open
            self.release(job, samples)
            for sample in samples:
                self.give(job, Ended(sample, reason, job.timings()))

    def newcomers(self) -> list[Job]:
        """The next jobs in line, until there is no room for the next one; they are live now."""
        jobs: list[Job] = []
        longest = 0
        with self.changed:
            while (job := self.waiting.next()) is not None:
                longest = max(longest, len(job.request.prompt))
                if (
                    self.reserved + job.cost > self.max_batch_tokens
                    or self.running + len(job.open) > self.max_batch_rows
                    or (jobs and longest * (len(jobs) + 1) > self.max_prefill_tokens)
                ):
                    break
                self.waiting.take()
                job.admitted = time.monotonic()
                self.live[job] = None
                self.reserved += job.cost
                self.running += len(job.open)
                jobs.append(job)
        return jobs

    def admit(self, jobs: list[Job]) -> None:
        """Let the batch read the prompts; where it cannot, one by one, to find which."""
        if not jobs:
            return
        try:
            rows = iter(self.batch.admit([job.request for job in jobs]))
        except UserError as error:
            if self.blame(error):  # rows under way, which have left
                self.admit(jobs)
            elif len(jobs) == 1:
                self.fail(jobs, error)
            else:
                for job in jobs:
                    self.admit([job])
            return
        for job in jobs:
            job.rows = {sample: next(rows) for sample in job.open}
            self.places.update({row: (job, sample) for sample, row in job.rows.items()})
            self.tokens_read += len(job.request.prompt)
            self.done += len(job.request.prompt) * len(job.open)
        for job in jobs:
            first = job.rows[0]
            self.give(job, Begun(first.prompt_scores, first.prompt_top_scores))

    def tell(self, news: Iterable[News]) -> None:
        """Hand out what rows have got."""
        for row, token, score, top_scores in news:
            if row not in self.places:  # its job has left
                continue
            job, sample = self.places[row]
            self.tokens_written += 1
            self.done += 1
            job.told[sample] += 1
            job.first_token = job.first_token or time.monotonic()
            self.give(job, Token(sample, token, score, top_scores))
            is_last = row.finish_reason is not None and job.told[sample] == len(row.tokens)
            if is_last and sample in job.open:
                self.release(job, [sample])
                self.give(job, Ended(sample, str(row.finish_reason), job.timings()))

    def give(self, job: Job, event: Event) -> None:
        """Tell the listener; one that raises is told no more, and its job fails."""
        if job.is_deaf:
            return
        try:
            job.listener(event)
        except Exception:
            logger.exception("a listener failed, and with it its request")
            self.failed += not isinstance(event, Failed)  # else it is counted already
            job.is_deaf = True
            self.cancel_rows(job)
            self.release(job, job.open)

    def blame(self, error: Exception) -> bool:
        """Fail the jobs whose rows ``error`` names; False: it names none."""
        rows = error.rows if isinstance(error, NotFinite) else ()
        jobs = list({self.places[row][0]: None for row in rows if row in self.places})
        for job in jobs:
            self.cancel_rows(job)
        self.fail(jobs, error)
        return bool(jobs)

    def fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """End ``jobs`` for ``error``."""
        for job in jobs:
            self.failed += 1
            self.release(job, job.open)
            self.give(job, Failed(error))

    def cancel_rows(self, job: Job) -> None:
        """Let the batch continue ``job`` no further."""
        for sample in job.open:
            if sample in job.rows:
                self.batch.cancel(job.rows[sample])

    def release(self, job: Job, samples: Sequence[int]) -> None:
        """Close ``samples`` of ``job``, and give back their room; with the last one it leaves."""
        job.open = [sample for sample in job.open if sample not in samples]
        if job not in self.live:
            return
        self.reserved -= job.row_cost * len(samples)
        self.running -= len(samples)
        for sample in samples:
            if sample in job.rows:
                del self.places[job.rows[sample]]
                self.done += job.request.limit - job.told[sample]
        if not job.open:
            del self.live[job]
