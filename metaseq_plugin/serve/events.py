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
from typing import AsyncIterator, Coroutine, Iterator, Optional, TypeVar

from fastapi import Request

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
from metaseq_plugin.serve.errors import failed, overloaded, too_late, unavailable
from metaseq_plugin.serve.metrics import Watch
from metaseq_plugin.serve.plan import Plan
from metaseq_plugin.serve.service import Service

Result = TypeVar("Result")


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
        self.texts = [
            [self.text(number, loaded.opt.tokenizer) for _ in range(plan.samples)]
            for number in range(len(plan.requests))
        ]
        self.jobs: list[Job] = []
        try:
            self.submit(client, time.monotonic() + self.timeout)
        except Overloaded as error:
            self.cancel()
            raise overloaded(error.retry_after) from error
        except Closed as error:
            self.cancel()
            raise unavailable("it is stopping") from error
