"""What clients do to their connections: they go away, say nothing, or say what is no HTTP."""

import json
import socket
import time
from typing import Iterator
from urllib.parse import urlsplit

import pytest

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import connections
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.service import Service
from tests.serve.live import SlowBatch, running, slow_batch, status_of, wait_for

LONG = {"prompt": "a", "max_tokens": 90, "min_tokens": 90}


@pytest.fixture(scope="module")
def batch(opt: OPT) -> SlowBatch:
    return slow_batch(opt)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(build(service), service) as started:
        yield started


def connect(url: str, data: bytes) -> socket.socket:
    """A connection on which ``data`` was sent."""
    place = urlsplit(url)
    connection = socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=10)
    connection.sendall(data)
    return connection


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def drip(connection: socket.socket) -> None:
    """Send a header now and then, for ever."""
    while True:
        connection.sendall(b"X-More: 1\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
def test_who_goes_away_leaves_the_batch(
    url: str, engine: Engine, service: Service, path: str, streams: bool
) -> None:
    fields = {**LONG, "n": 3, **({"stream": True} if streams and path[1] == "v" else {})}
    connection = connect(url, post(path, json.dumps(fields).encode()))
    wait_for(lambda: engine.statistics().running == 3)
    wait_for(lambda: engine.statistics().steps > 3)
    connection.close()
    before = engine.statistics().steps
    wait_for(lambda: engine.statistics().running == 0)
    # One step that was under way, and the one before which the row leaves; the loop hears of it in between.
    assert engine.statistics().steps - before <= 5
    wait_for(lambda: service.metrics.in_flight == 0)


def test_who_goes_away_before_being_admitted_leaves_the_queue(url: str, engine: Engine) -> None:
    fields = json.dumps({**LONG, "n": 40}).encode()
    first = connect(url, post("/v1/completions", fields))
    wait_for(lambda: engine.statistics().running == 40)
    second = connect(url, post("/v1/completions", fields))
    wait_for(lambda: engine.statistics().waiting == 1)
    second.close()
    wait_for(lambda: engine.statistics().waiting == 0)
    assert engine.statistics().running == 40
    first.close()
    wait_for(lambda: engine.statistics().running == 0)


def test_a_head_that_does_not_end_is_not_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    silent = connect(url, b"")
    loris = connect(url, b"POST /v1/completions HTTP/1.1\r\n")
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        drip(loris)
    assert time.monotonic() - begun < 5
    assert rest(silent) == b""
    assert status_of(url) == 200


def test_a_request_may_take_longer_than_its_head(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    connection = connect(url, post("/v1/completions", json.dumps(LONG).encode()))
    assert connection.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "data",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000],
)
def test_what_is_no_http_is_told_so(url: str, data: bytes) -> None:
    head, _, body = rest(connect(url, data)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["message"].startswith("A request must be HTTP/1.1")


def test_a_body_that_is_too_large_is_refused_at_once(url: str) -> None:
    connection = connect(url, post("/v1/completions", b"{", length=10**12))
    assert connection.recv(12) == b"HTTP/1.1 413"


def test_requests_may_follow_on_one_connection(url: str) -> None:
    wrong = post("/v1/completions", b"{}")
    connection = connect(url, wrong)
    for _ in range(2):
        answer = b""
        while not answer.endswith(b"}}"):  # its head and its body may come apart
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400")
        connection.sendall(wrong)
