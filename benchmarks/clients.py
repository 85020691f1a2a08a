"""Clients of an OpenAI-like server, each sending its next request once the last one is answered.

    load = measure("http://127.0.0.1:6010/", requests_of(0, 4096, vocab_size), clients=16, seconds=25)
    load.rate, load.first_token(50), load.latency(99)

A request is a prompt of token ids and how many tokens to write; answers are streamed, so that it is known
when the first token came and how much was there at any moment. No request begins after ``seconds``; those
under way are waited for, and what they get later counts for latencies only.
"""

import http.client
import json
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from itertools import cycle
from typing import Any, Iterator, NamedTuple, Sequence
from urllib.parse import urlsplit

import numpy as np

PROMPT_TOKENS = (16, 256)  # fewest and most
NEW_TOKENS = (16, 128)
STRATA = 8  # so many requests in a row have short and long lengths in equal parts
PATH = "/v1/completions"


class Request(NamedTuple):
    """What a client asks for."""

    prompt: list[int]  # token ids
    new_tokens: int


class Answer(NamedTuple):
    """What came of a request, in seconds on the clock of ``time.perf_counter``."""

    begun: float
    pieces: list[float]  # when each piece of text came
    ended: float
    tokens: int  # new ones, as the server counts them


class Load(NamedTuple):
    """What a number of clients got."""

    clients: int
    begun: float
    seconds: float
    answers: list[Answer]

    @property
    def rate(self) -> float:
        """New tokens a second that had come when ``seconds`` were over; an answer's pieces stand for equal parts of it."""
        end = self.begun + self.seconds
        shares = [a.tokens * bisect_right(a.pieces, end) / len(a.pieces) for a in self.answers]
        return sum(shares) / self.seconds

    def latency(self, percent: float) -> float:
        """Seconds to the end of an answer."""
        return float(np.percentile([a.ended - a.begun for a in self.answers], percent))

    def first_token(self, percent: float) -> float:
        """Seconds to the first piece of an answer."""
        return float(np.percentile([a.pieces[0] - a.begun for a in self.answers], percent))


def lengths_of(random: np.random.Generator, bounds: tuple[int, int], count: int) -> np.ndarray:
    """``count`` lengths within ``bounds``, of every ``STRATA`` in a row one in each part of the range."""
    fewest, most = bounds
    rounds = -(-count // STRATA)
    strata = random.permuted(np.tile(np.arange(STRATA), (rounds, 1)), axis=1).reshape(-1)[:count]
    share = (strata + random.random(count)) / STRATA
    return fewest + (share * (most + 1 - fewest)).astype(int)


def requests_of(seed: int, count: int, vocab_size: int) -> list[Request]:
    """Requests of mixed lengths with random prompts, the same for the same seed."""
    random = np.random.default_rng(seed)
    lengths = zip(
        lengths_of(random, PROMPT_TOKENS, count), lengths_of(random, NEW_TOKENS, count), strict=True
    )
    return [
        Request(random.integers(4, vocab_size, prompt).tolist(), int(new))
        for prompt, new in lengths
    ]


def body_of(request: Request) -> bytes:
    """Greedy, of exactly so many tokens, streamed."""
    fields: dict[str, Any] = {
        "prompt": request.prompt, "max_tokens": request.new_tokens, "min_tokens": request.new_tokens,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    return json.dumps(fields).encode()


def events(answer: http.client.HTTPResponse) -> Iterator[str]:
    """The ``data:`` of an event stream up to ``[DONE]``."""
    for line in answer:
        if line.startswith(b"data: "):
            content = line[len(b"data: ") :].decode().strip()
            if content == "[DONE]":
                return
            yield content
    raise RuntimeError("An answer must end with [DONE], but ended before.")


def ask(connection: http.client.HTTPConnection, request: Request) -> Answer:
    """Send a request and read its answer to the end.

    Raises:
        RuntimeError: it was refused, or has another number of tokens than were asked for.
    """
    begun = time.perf_counter()
    connection.request("POST", PATH, body_of(request), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(
            f"A request must be answered, but got {answer.status}: {answer.read()!r}"
        )
    pieces, last = [], ""
    for content in events(answer):
        pieces.append(time.perf_counter())
        last = content
    ended = time.perf_counter()
    answer.read()  # the end of the chunks, so that the connection can be used again
    tokens: int = json.loads(last)["usage"]["completion_tokens"]
    if tokens != request.new_tokens:
        raise RuntimeError(f"An answer must have {request.new_tokens} tokens, but has {tokens}.")
    return Answer(begun, pieces[:-1], ended, tokens)  # the last event is the usage


def measure(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Load:
    """Let ``clients`` send ``requests`` in turn for ``seconds``, as many of them as they get through, and again from the first.

    Raises:
        RuntimeError: a request failed.
    """
    address = urlsplit(url)
    coming, turn = cycle(requests), threading.Lock()
    answers: list[Answer] = []
    has_failed = threading.Event()
    begun = time.perf_counter()

    def client() -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        with closing(connection):
            while time.perf_counter() < begun + seconds and not has_failed.is_set():
                with turn:
                    request = next(coming)
                answers.append(ask(connection, request))

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client) for _ in range(clients)]
        for future in as_completed(futures):
            if future.exception() is not None:
                has_failed.set()  # the others stop after the request they are at
        for future in futures:
            future.result()
    return Load(clients, begun, seconds, answers)
