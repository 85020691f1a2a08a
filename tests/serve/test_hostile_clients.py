"""Clients that mean no good, or break: slow ones, dead ones, too many of them, and what they send."""

import asyncio
import json
import logging
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Iterator

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from metaseq_plugin.generation.batch import News
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import connections
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.connections import PatientProtocol, most_connections
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.fuzz import ordinary, send
from tests.serve.live import SlowBatch, running, slow_batch, status_of, wait_for
from tests.serve.overload import overload
from tests.serve.test_connections import LONG, connect, post, rest
from tests.serve.tiny import NAME

ANSWERED = 5.0  # seconds, of every request


class FaultyBatch(SlowBatch):
    """A batch whose next step fails once it is told so."""

    fails = False

    def step(self) -> list[News]:
        if self.fails:
            self.fails = False
            raise RuntimeError("the accelerator had a fault")
        found: list[News] = super().step()
        return found


@pytest.fixture(scope="module")
def batch(opt: OPT) -> FaultyBatch:
    return FaultyBatch([opt.model], opt.generator.pad, opt.generator.eos, 4096)


@pytest.fixture(scope="module")
def url(app: FastAPI, service: Service) -> Iterator[str]:
    with running(app, service) as started:
        yield started


def many(unit: str, size: int = 1_000_000) -> str:
    return ", ".join([unit] * (size // (len(unit) + 2)))


NUMBERED = ", ".join(f'"{number}": "x"' for number in range(70_000))
HEAVY = {
    "numbers": f'{{"prompt": [{many("1.5")}]}}',
    "empty lists": f'{{"prompt": [[1], {many("[]")}]}}',
    "lists of a wrong kind": f'{{"prompt": [[1], {many(chr(91) + "true]")}]}}',
    "objects": f'{{"prompt": [{many("{}")}]}}',
    "one too many": f'{{"prompt": [{many("[5]")}]}}',
    "stops": f'{{"prompt": "a", "stop": [{many("1")}]}}',
    "fields": f'{{"prompt": "a", {NUMBERED}}}',
    "biases": f'{{"prompt": "a", "logit_bias": {{{NUMBERED}}}}}',
    "a long name": f'{{"prompt": "a", "{"max_tokens" * 100_000}": 1}}',
    "a long text": f'{{"prompt": "{"a" * 1_000_000}"}}',
}


@pytest.mark.parametrize("kind", HEAVY)
def test_many_faults_cost_no_more_than_one(client: TestClient, kind: str) -> None:
    begun = time.monotonic()
    answer = client.post(
        "/v1/completions", content=HEAVY[kind], headers={"Content-Type": "application/json"}
    )
    assert time.monotonic() - begun < ANSWERED
    assert answer.status_code == 400
    assert len(answer.text) < 1000


def test_too_many_fields_and_biases_are_counted(client: TestClient) -> None:
    wrong = client.post("/v1/completions", json={"prompt": "a", **{f"f{n}": 1 for n in range(100)}})
    assert wrong.json()["error"]["message"] == (
        "The body must have at most 100 fields, but has more. Leave some out."
    )
    biases = {str(number): 0.0 for number in range(1001)}
    wrong = client.post("/v1/completions", json={"prompt": "a", "logit_bias": biases})
    assert wrong.json()["error"]["message"].startswith(
        "`logit_bias` must have at most 1000 entries, but is {'0': 0.0, "
    )


def test_hostile_requests(service: Service) -> None:
    with running(build(service, only_at="127.0.0.1"), service) as url:  # as it is without keys
        before = ordinary(url)
        found = send(url, seed=1, numbers=range(40))
        assert found.faults == []
        assert found.statuses["421"] < found.statuses["200"]  # what is behind is reached too
        assert ordinary(url) == before


@pytest.mark.parametrize("ending", [b"zz\r\n", b"-1\r\n", b"2\r\nab"])
@pytest.mark.parametrize("host", [b"localhost", b"pages.example"])
def test_a_request_that_is_refused_and_no_http_is_answered_once(
    service: Service, caplog: pytest.LogCaptureFixture, host: bytes, ending: bytes
) -> None:
    """Its head may be refused while its body turns out to be none."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % host
    with running(build(service, only_at="127.0.0.1"), service) as url:
        logging.getLogger("uvicorn.error").addHandler(caplog.handler)
        for _ in range(5):
            connection = connect(url, head + ending)
            connection.shutdown(socket.SHUT_WR)
            assert rest(connection).count(b"HTTP/1.1 4") <= 1
        ordinary(url)
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "data",
    [b"GET /health HT", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n", post("/v1/completions", b'{"pro', 40)],
    ids=["line", "head", "body"],
)  # fmt: skip
def test_others_are_served_while_many_send_nothing_more(
    url: str, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.5)
    slow = [connect(url, data) for _ in range(100)]
    begun = time.monotonic()
    assert len(str(ordinary(url))) > 0
    assert time.monotonic() - begun < 1.5
    if b'{"pro' in data:
        for connection in slow:
            connection.close()
    else:
        assert [rest(connection) for connection in slow] == [b""] * 100


@pytest.fixture
def little_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps but a little of an answer that is not taken."""
    made = PatientProtocol.connection_made

    def small(protocol: PatientProtocol, transport: asyncio.Transport) -> None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(protocol, transport)

    monkeypatch.setattr(PatientProtocol, "connection_made", small)


@pytest.mark.usefixtures("little_is_held")
@pytest.mark.parametrize("streams", [True, False])
def test_who_takes_nothing_of_an_answer_is_dropped(
    engine: Engine, url: str, service: Service, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(SlowBatch, "pause", 0.0)
    fields = {**LONG, "n": 40, "logprobs": 20, "stream": streams}
    connection = connect(url, post("/v1/completions", json.dumps(fields).encode()))
    wait_for(lambda: engine.statistics().running == 40)
    # Longer than the whole answer takes, and nobody reads.
    wait_for(lambda: engine.statistics().running == 0 and service.metrics.in_flight == 0, 30)
    time.sleep(1.5)
    received = rest(connection)  # what had been sent, but not the end
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith((b"[DONE]\n\n\r\n0\r\n\r\n", b"}}"))


@pytest.mark.usefixtures("little_is_held")
def test_who_takes_an_answer_slowly_gets_it_all(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(connections, "WRITE_BYTES", 10_000)
    monkeypatch.setattr(SlowBatch, "pause", 0.0)
    fields = {**LONG, "n": 40, "logprobs": 20}
    connection = connect(url, post("/v1/completions", json.dumps(fields).encode()))
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
        time.sleep(0.002)
        if part.endswith(b"}}"):
            break
    body = b"".join(parts).partition(b"\r\n\r\n")[2]
    assert len(json.loads(body)["choices"]) == 40


CLIENT = """
import json, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.argv[2].encode())
print(connection.recv(15), flush=True)
while connection.recv(4096):
    pass
"""


def test_a_client_that_is_killed_leaves_the_batch(url: str, engine: Engine) -> None:
    data = post("/v1/completions", json.dumps({**LONG, "n": 5, "stream": True}).encode())
    port = url.rstrip("/").rpartition(":")[2]
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, port, data.decode()], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert "200 OK" in client.stdout.readline()
        wait_for(lambda: engine.statistics().running == 5, 5)
        client.send_signal(signal.SIGKILL)
        client.wait()
        before = engine.statistics().steps
        wait_for(lambda: engine.statistics().running == 0, 5)
        # One step that was under way, the one before which the rows leave, and the loop hears of it in between.
        assert engine.statistics().steps - before <= 5


def test_a_fault_of_a_step_fails_only_the_requests_in_it(
    url: str, batch: FaultyBatch, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    before = ordinary(url)
    streamed = connect(
        url, post("/v1/completions", json.dumps({**LONG, "n": 3, "stream": True}).encode())
    )
    whole = connect(url, post("/v1/completions", json.dumps({**LONG, "n": 3}).encode()))
    wait_for(lambda: engine.statistics().running == 6)
    # The batch has no room for so many beside them.
    waiting = connect(url, post("/v1/completions", json.dumps({**LONG, "n": 40}).encode()))
    wait_for(lambda: engine.statistics().waiting == 1, 10)
    batch.fails = True
    last = b""
    while b"engine_error" not in last:
        last += streamed.recv(65536)
    assert last.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" not in last
    assert whole.recv(65536).startswith(b"HTTP/1.1 500")
    assert waiting.recv(15) == b"HTTP/1.1 200 OK"
    assert ordinary(url) == before
    assert "the accelerator had a fault" in caplog.text


def test_what_the_batch_has_no_room_for_is_refused_before_it_is_queued(
    url: str, engine: Engine
) -> None:
    before = engine.statistics().submitted
    fields = {
        **LONG,
        "prompt": [[2, 5], [2] + [5] * 40],
        "n": 44,
        "max_tokens": 50,
        "min_tokens": 0,
    }
    answer = httpx2.post(f"{url}v1/completions", json=fields)
    assert answer.status_code == 400
    assert "`max_tokens` must keep the request within 4096 tokens" in answer.text
    assert engine.statistics().submitted == before


def test_more_connections_than_there_is_room_for_are_told_so(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "SURPLUS_SECONDS", 0.3)
    held = [connect(url, b"") for _ in range(20)]
    wait_for(lambda: status_of(url) == 503)
    head, _, body = rest(connect(url, post("/v1/completions", b"{}"))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["error"]["code"] == "too_many_connections"
    assert rest(connect(url, b"")) == b""  # one that says nothing is not waited for
    for connection in held:
        connection.close()
    wait_for(lambda: status_of(url) == 200, 5)


def test_there_are_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((256, 192), (20_000, 1000), (resource.RLIM_INFINITY, 1000), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, soft=limit: (soft, soft))
        assert most_connections() == most


def test_a_hundred_times_too_many_requests(opt: OPT) -> None:
    engine = Engine(slow_batch(opt), 4 * (2 + 30), 4)
    service = Service(Options(name=NAME, max_waiting=4))
    service.open(opt, engine)
    with running(build(service), service) as url:
        before = ordinary(url)
        statuses, slowest = asyncio.run(overload(url, 400, 0.5))
        assert set(statuses) == {"200", "429"}
        assert statuses["429"] >= 200
        assert slowest < ANSWERED
        assert ordinary(url) == before
    engine.close(drains=False)
