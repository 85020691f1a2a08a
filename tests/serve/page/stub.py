"""A server with the page and OpenAI's events, whose answers a test writes: slow, cut, refused, hostile.

    with running(app) as origin: …                      # any ASGI app on a free port of loopback
    python -m tests.serve.page.stub                      # look at the page by hand

``Stub.answer`` is what the next completion gets: the events, or a refusal. ``Stub.bodies`` are the
requests that came. ``plain_answer`` writes events from tokens, one an event, as the server does.
"""

import asyncio
import json
import math
import random
import socket
import threading
import time
from contextlib import contextmanager
from typing import Any, AsyncIterator, Iterator, NamedTuple, Optional, Sequence, Union

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from metaseq_plugin.serve.page_files import page_routes

MODEL = "opt-125m"


class Refusal(NamedTuple):
    status: int
    message: str
    headers: Optional[dict[str, str]] = None


class Events(NamedTuple):
    """The bytes of a streamed answer, a pause after each piece, and whether it breaks off."""

    pieces: Sequence[bytes]
    pause: float = 0.0  # seconds
    is_cut: bool = False


Answer = Union[Events, Refusal]


class Stub:
    """The server's state: what it answers, and what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = plain_answer(["Hello", " world"])
        self.key: Optional[str] = None  # asked for where set
        self.bodies: list[dict[str, Any]] = []
        self.aborted = threading.Event()  # a client went away before the end
        self.loading = 0  # how often /v1/models still says 503
        self.steps: Optional[threading.Semaphore] = None  # each piece waits for one, where set

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            *page_routes(),
        ]
        return Starlette(routes=routes)

    def refusal_of_key(self, request: Request) -> Optional[Response]:
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        return refused(Refusal(401, "The API key must be one of the server's, but is missing."))

    async def models(self, request: Request) -> Response:
        if self.loading:
            self.loading -= 1
            return refused(
                Refusal(503, "The server must be ready, but loads.", {"Retry-After": "0"})
            )
        return self.refusal_of_key(request) or JSONResponse({"data": [{"id": MODEL}]})

    async def completions(self, request: Request) -> Response:
        refusal = self.refusal_of_key(request)
        if refusal:
            return refusal
        self.bodies.append(await request.json())
        if isinstance(self.answer, Refusal):
            return refused(self.answer)
        return StreamingResponse(self.stream(self.answer), media_type="text/event-stream")

    async def stream(self, events: Events) -> AsyncIterator[bytes]:
        try:
            for piece in events.pieces:
                while self.steps is not None and not self.steps.acquire(blocking=False):
                    await asyncio.sleep(0.01)
                yield piece
                await asyncio.sleep(events.pause)
        except asyncio.CancelledError:
            self.aborted.set()
            raise
        if events.is_cut:
            raise ConnectionAbortedError


def refused(refusal: Refusal) -> Response:
    body = {"error": {"message": refusal.message, "type": "invalid_request_error"}}
    return JSONResponse(body, refusal.status, refusal.headers)


def event(value: object) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def choice_event(
    index: int,
    text: str,
    logprobs: Optional[dict[str, Any]] = None,
    finish_reason: Optional[str] = None,
) -> bytes:
    choice = {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }
    return event({"id": "1", "object": "text_completion", "choices": [choice], "usage": None})


def token_logprobs(token: str, offset: int, probability: float) -> dict[str, Any]:
    """One token and what else was likely: the rest of the probability, halved again and again."""
    top = {token: math.log(probability)}
    rest = 1 - probability
    for other in (" the", "1", "\n", " a"):
        rest /= 2
        if other != token and rest > 0:
            top[other] = math.log(rest)
    return {
        "tokens": [token],
        "token_logprobs": [math.log(probability)],
        "top_logprobs": [top],
        "text_offset": [offset],
    }


def closing(tokens: int) -> list[bytes]:
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}
    return [event({"id": "1", "choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def plain_answer(
    tokens: Sequence[str],
    probabilities: Sequence[float] = (0.9, 0.3, 0.1, 0.03, 0.004),
    samples: int = 1,
    pause: float = 0.0,
    finish_reason: str = "length",
    has_logprobs: bool = True,
) -> Events:
    """``tokens`` as every sample's text, an event each, with ``probabilities`` in turn."""
    pieces = []
    offset = 0
    for number, token in enumerate(tokens):
        is_last = number == len(tokens) - 1
        for sample in range(samples):
            chance = probabilities[(number + sample) % len(probabilities)]
            logprobs = token_logprobs(token, offset, chance) if has_logprobs else None
            pieces.append(choice_event(sample, token, logprobs, finish_reason if is_last else None))
        offset += len(token)
    return Events([*pieces, *closing(len(tokens) * samples)], pause)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """``app`` on a free port of loopback; its origin, ``http://127.0.0.1:…``."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True  # a test's slow stream is not waited for
        thread.join(timeout=20)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


SPECIMEN = (
    "The keeper of the lighthouse had a habit of counting ships.\nHe wrote each one down in a blue "
    "notebook: the hour, the weather, and what he thought its people were saying to one another."
    "\n\nOn the first evening of winter he counted none, and wrote that down as well."
)


def main() -> None:
    stub = Stub()
    random.seed(3)
    chances = [
        random.random() ** 0.5 if random.random() < 0.75 else random.random() ** 4
        for _ in range(97)
    ]
    words = SPECIMEN.replace(" ", "| ").replace("\n", "|\n").split("|")
    stub.answer = plain_answer(words, chances, pause=0.05, samples=1)
    with running(stub.app()) as origin:
        print(origin, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
