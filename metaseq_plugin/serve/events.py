"""The jobs of one request: on the engine's thread they run, on the server's event loop their tokens become text.

    run = Run(plan, service, client)           # queued, or refused: ApiError
    async for index, piece in run.pieces():    # or: await run.choices()
        print(index, piece.text)
    run.cancel()

``cancel`` is for however it ends (all is done, the client is gone, an error): rows that still go on leave the
batch with the engine's next step.
"""

import asyncio
import time
from functools import partial
from typing import AsyncIterator, Iterator, Optional

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from metaseq_plugin.generation.engine import (
    Begun,
    Closed,
    Ended,
    Event,
    Failed,
    Job,
    Overloaded,
    Token,
)
from metaseq_plugin.serve.choices import ChoiceText, Piece, joined
from metaseq_plugin.serve.connections import WRITE_SECONDS
from metaseq_plugin.serve.errors import failed, overloaded, too_late, unavailable
from metaseq_plugin.serve.metrics import Watch
from metaseq_plugin.serve.plan import Plan
from metaseq_plugin.serve.service import Service


class Run:
    """A plan under way.

    Attributes:
        prompt_tokens, new_tokens: for ``usage``.

    Raises:
        ApiError: the queue is full, or the server stops.
    """

    def __init__(self, plan: Plan, service: Service, client: str) -> None:
        loaded = service.ready()
        self.plan, self.engine, self.timeout = plan, loaded.engine, service.options.timeout
        self.watch = Watch(service.metrics)
        self.prompt_tokens = sum(len(request.prompt) for request in plan.requests)
        self.new_tokens = 0
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        assert loaded.opt.tokenizer is not None, "`loading` refuses models without one"
        self.tokenizer = loaded.opt.tokenizer
        self.texts: dict[int, list[ChoiceText]] = {}  # of each prompt that was begun, its samples'
        self.jobs: list[Job] = []
        try:
            self.submit(client, time.monotonic() + self.timeout)
        except Exception as error:
            self.cancel()
            if isinstance(error, Overloaded):
                raise overloaded(error.retry_after) from error
            if isinstance(error, Closed):
                raise unavailable("it is stopping") from error
            raise

    def text(self, number: int) -> ChoiceText:
        """What one sample of a prompt becomes."""
        request, shown = self.plan.requests[number], self.plan.shown[number]
        least = request.settings.min_new_tokens
        return ChoiceText(self.tokenizer, request.prompt, self.plan.stops, shown, least)

    def submit(self, client: str, deadline: float) -> None:
        for number, request in enumerate(self.plan.requests):
            listener = partial(self.tell, number)
            self.jobs.append(self.engine.submit(request, listener, client, deadline))

    def tell(self, number: int, event: Event) -> None:
        """Called on the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, (number, event))

    def cancel(self) -> None:
        for job in self.jobs:
            self.engine.cancel(job)

    def indices(self, number: int, sample: int) -> range:
        """The choices that a sample stands for."""
        first = number * self.plan.samples * self.plan.copies + sample
        return range(first, first + self.plan.copies)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Numbers of choices and what they have got, as it comes.

        Raises:
            ApiError: the engine failed, the time is over, or the server stops.
        """
        open_samples = len(self.jobs) * self.plan.samples
        while open_samples:
            number, event = await self.events.get()
            for sample, piece in self.taken(number, event):
                open_samples -= piece.finish_reason is not None
                for index in self.indices(number, sample):
                    if piece != Piece():
                        yield index, piece
                if isinstance(event, Begun):  # a prompt may be long: others are answered in between
                    await asyncio.sleep(0)
        self.watch.end(len(self.jobs) * self.plan.samples)

    def taken(self, number: int, event: Event) -> Iterator[tuple[int, Piece]]:
        """Samples of a prompt, and what an event means to them."""
        if isinstance(event, Begun):
            self.texts[number] = []
            for sample in range(self.plan.samples):
                text = self.text(number)
                self.texts[number].append(text)
                yield sample, text.begin(event.prompt_scores, event.prompt_top_scores)
                if self.plan.only_scores:
                    yield sample, text.end("length")
        elif isinstance(event, Failed):
            raise failed(event.error)
        elif isinstance(event, Ended) and event.finish_reason == "deadline":
            raise too_late(self.timeout)
        elif isinstance(event, Ended) and event.finish_reason == "cancelled":
            raise unavailable("it is stopping")
        elif self.plan.only_scores:
            return
        elif isinstance(event, Token):
            self.watch.token()
            self.new_tokens += 1
            text = self.texts[number][event.sample]
            yield event.sample, text.take(event.token, event.score, event.top_scores)
        else:
            self.watch.metrics.queue_seconds.observe(event.timings.queued)
            yield event.sample, self.texts[number][event.sample].end(event.finish_reason)

    async def choices(self) -> list[Piece]:
        """All choices, whole and in order; with ``best_of`` the likeliest of each prompt's."""
        found: dict[int, list[Piece]] = {}
        async for index, piece in self.pieces():
            found.setdefault(index, []).append(piece)
        whole = [joined(found[index]) for index in sorted(found)]
        if not self.plan.is_ranked:
            return whole
        best: list[Piece] = []
        for number, texts in sorted(self.texts.items()):
            order = sorted(range(len(texts)), key=lambda s: -texts[s].mean_score)
            best += [whole[number * len(texts) + sample] for sample in order[: self.plan.n]]
        return best


async def answered(request: Request, run: Run) -> Optional[list[Piece]]:
    """The choices of ``run``, or None once the client is gone; the run has ended then."""
    work = asyncio.ensure_future(run.choices())
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        run.cancel()
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Events of a run, which ends with the response, also where that never began."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], run: Run) -> None:
        # nginx would hold the events back.
        super().__init__(content, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(self.run.timeout + WRITE_SECONDS):  # however slowly it is read
                await super().__call__(scope, receive, send)
        finally:
            self.run.cancel()
