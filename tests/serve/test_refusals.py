"""Whatever a client does wrong is answered in OpenAI's form, with the rule and what to set; never with 500."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import anyio
import pytest
from fastapi.exceptions import RequestValidationError
from starlette.testclient import TestClient

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.engine import Engine, Overloaded
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build, build_app
from metaseq_plugin.serve.bodies import MAX_BODY_BYTES, BodyLimit
from metaseq_plugin.serve.choices import ChoiceText
from metaseq_plugin.serve.keys import Keys, read_keys
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.metaseq_routes import PATHS
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.tiny import NAME, POSITIONS


def refused(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, its form checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (name,) = answer.json()
    assert name == "error"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


# fmt: off
# name -> (fields that go wrong, the field that is named, what the sentence says)
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "prompt missing": ({"prompt": None}, "prompt", "`prompt` must be set, but is missing"),
    "prompt a number": ({"prompt": 5}, "prompt", "`prompt` must be a text, a list of texts"),
    "prompt empty list": ({"prompt": []}, "prompt", "none of them empty, but is []"),
    "prompt mixed": ({"prompt": ["a", 5]}, "prompt", "`prompt` must be a text, a list of texts"),
    "prompt true": ({"prompt": [True]}, "prompt", "`prompt` must be a text, a list of texts"),
    "prompt empty ids": ({"prompt": [[5], []]}, "prompt", "none of them empty"),
    "id too large": ({"prompt": [10**30]}, "prompt", "token ids must be from 0 to"),
    "id negative": ({"prompt": [-1]}, "prompt", "token ids must be from 0 to"),
    "id padding": ({"prompt": [1]}, "prompt", "must not be padding"),
    "prompt too long": ({"prompt": [5] * POSITIONS}, "prompt", f"at most {POSITIONS} tokens with its leading </s>"),
    "lone surrogate": ({"prompt": "a\ud800"}, "prompt", "Unicode without lone surrogates"),
    "max_tokens negative": ({"max_tokens": -1}, "max_tokens", "`max_tokens` must be at least 0, but is -1"),
    "max_tokens beyond": ({"max_tokens": 96}, "max_tokens", "`max_tokens` must be at most 95 behind a prompt of 2 tokens"),
    "max_tokens a text": ({"max_tokens": "5"}, "max_tokens", "`max_tokens` must be a whole number, but is '5'. Set 8, say."),
    "max_tokens a fraction": ({"max_tokens": 1.5}, "max_tokens", "must be a whole number"),
    "min above max": ({"min_tokens": 20}, "min_tokens", "`min_tokens` must be at most `max_tokens` (16), but is 20"),
    "temperature negative": ({"temperature": -0.1}, "temperature", "must be at least 0.0, but is -0.1"),
    "temperature a text": ({"temperature": "warm"}, "temperature", "must be a number, but is 'warm'"),
    "top_p above 1": ({"top_p": 1.1}, "top_p", "`top_p` must be at most 1.0, but is 1.1"),
    "top_k negative": ({"top_k": -1}, "top_k", "`top_k` must be at least 0"),
    "n of nothing": ({"n": 0}, "n", "`n` must be at least 1, but is 0"),
    "n of more than a batch": ({"n": 65}, "n", "`n` and `best_of` must be at most 64"),
    "more than fits": ({"n": 60, "max_tokens": 90}, "max_tokens", "within 4096 tokens"),
    "best_of below n": ({"n": 3, "best_of": 2}, "best_of", "`best_of` must be at least `n` (3), but is 2"),
    "best_of streamed": ({"best_of": 2, "stream": True}, "best_of", "`best_of` must be `n` (1) with `stream`"),
    "stream_options alone": ({"stream_options": {}}, "stream_options", "must come with `stream`"),
    "stream_options unknown": ({"stream_options": {"usage": True}}, "stream_options", "`usage` must be a field"),
    "logprobs 21": ({"logprobs": 21}, "logprobs", "`logprobs` must be at most 20"),
    "logprobs true": ({"logprobs": True}, "logprobs", "`logprobs` must be a whole number, but is true"),
    "echo a number": ({"echo": 1}, "echo", "`echo` must be true or false, but is 1"),
    "stop empty": ({"stop": ""}, "stop", "`stop` must have at least 1 characters"),
    "stop of many": ({"stop": ["x"] * 17}, "stop", "`stop` must"),
    "penalty": ({"presence_penalty": 2.5}, "presence_penalty", "at most 2.0, but is 2.5"),
    "bias of a word": ({"logit_bias": {"cat": 1}}, "logit_bias", "be a token id in decimal digits"),
    "bias of no token": ({"logit_bias": {"99999": 1}}, "logit_bias", "`logit_bias` must hold token ids from 0 to"),
    "bias too large": ({"logit_bias": {"5": 101}}, "logit_bias", "at most 100"),
    "suffix": ({"suffix": "x"}, "suffix", "`suffix` must be left out, for the model reads from left to right"),
    "unknown field": ({"temprature": 1}, "temprature", "`temprature` must be a field of such a request, but is unknown. Set `temperature`."),
    "seed a fraction": ({"seed": 0.5}, "seed", "`seed` must be a whole number"),
    "braces": ({"user": {"{0}": "{x}"}}, "user", "`user` must be a text, but is {'{0}': '{x}'}"),
    "user long": ({"user": "x" * 201}, "user", "at most 200 characters"),
}
BODIES = [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"{" * 100_000, b'{"prompt": NaN}', b'{"prompt": "a", "temperature": Infinity}', b'{"prompt":"a","n":' + b"9" * 5000 + b"}"]
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_its_rule(client: TestClient, name: str) -> None:
    fields, param, sentence = WRONG[name]
    content = json.dumps({"prompt": "a", **fields})
    headers = {"Content-Type": "application/json"}
    error = refused(client.post("/v1/completions", content=content, headers=headers), 400)
    assert sentence in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
def test_a_body_that_is_no_request(client: TestClient, body: bytes, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused(client.post(path, content=body, headers=headers), 400)


# fmt: off
MANY: dict[str, dict[str, Any]] = {
    "fractions": {"prompt": [0.5] * 100_000},
    "texts and ids": {"prompt": ["a", *[5] * 100_000]},
    "lists of nothing": {"prompt": [[None]] * 100_000},
    "lists of fractions": {"prompt": [[5], [5.5] * 100_000]},
    "stops": {"stop": [5] * 100_000},
    "biases": {"logit_bias": {f"x{i}": 1 for i in range(100_000)}},
    "unknown fields": {f"temperatur{i}": 1 for i in range(100_000)},
    "unknown options": {"stream_options": {f"x{i}": 1 for i in range(100_000)}},
}
# fmt: on


@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
@pytest.mark.parametrize("name", MANY)
def test_many_faults_are_not_all_described(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    fields = MANY[name]
    described: list[Any] = []
    errors = RequestValidationError.errors

    def noted(error: RequestValidationError) -> Any:
        described.extend(errors(error))
        return errors(error)

    monkeypatch.setattr(RequestValidationError, "errors", noted)
    answer = client.post(path, json={"prompt": "a", "max_tokens": 1, **fields})
    if path == "/completions" and ("logit_bias" in fields or "stream_options" in fields):
        assert answer.status_code == 200  # what is unknown is passed over there
    else:
        refused(answer, 400)
        assert len(described) in range(1, 10)
        assert len(answer.content) < 1000


def test_others_are_answered_while_a_text_becomes_tokens(
    client: TestClient, opt: OPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_encoding, is_answered = threading.Event(), threading.Event()
    encode = opt.encode

    def slowly(text: str) -> list[int]:
        is_encoding.set()
        assert is_answered.wait(60)
        return encode(text)

    monkeypatch.setattr(opt, "encode", slowly)
    for path in ("/v1/completions", "/completions"):
        is_encoding.clear()
        is_answered.clear()
        fields = {"prompt": "a", "max_tokens": 1}
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(client.post, path, json=fields)
            assert is_encoding.wait(60)
            assert client.get("/health").status_code == 200
            is_answered.set()
            assert asked.result().status_code == 200


def test_others_are_answered_between_the_samples_of_a_prompt(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    begin = ChoiceText.begin

    def noted(text: ChoiceText, *prompt: Any) -> Any:
        turns.append("sample")
        asyncio.get_running_loop().call_soon(turns.append, "other")
        return begin(text, *prompt)

    monkeypatch.setattr(ChoiceText, "begin", noted)
    fields = {"prompt": "a", "n": 3, "max_tokens": 1, "echo": True}
    assert client.post("/v1/completions", json=fields).status_code == 200
    assert turns == ["sample", "other"] * 3


def test_a_body_without_its_type(client: TestClient) -> None:
    error = refused(client.post("/v1/completions", content=b'{"prompt": "a"}'), 400)
    assert "`Content-Type: application/json`" in error["message"]


def test_paths_and_methods(client: TestClient) -> None:
    assert "/v1/completion" in refused(client.post("/v1/completion"), 404)["message"]
    error = refused(client.get("/v1/completions"), 405)
    assert error["message"].startswith("The method must be POST, but is GET.")
    refused(client.delete("/health"), 405)
    refused(client.get("/page/../service.py"), 404)


def test_another_model(client: TestClient) -> None:
    content = json.dumps({"prompt": "a", "model": "gpt-5\ud800"})
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/completions", content=content, headers=headers)
    error = refused(answer, 404)
    assert error["code"] == "model_not_found"
    assert NAME in error["message"]
    refused(client.get("/v1/models/gpt-5"), 404)
    assert client.get(f"/v1/models/{NAME}").json()["id"] == NAME


def test_too_many_prompts(client: TestClient) -> None:
    error = refused(client.post("/v1/completions", json={"prompt": ["a"] * 17}), 400)
    assert "at most 16 prompts (`--max-waiting`), but holds 17" in error["message"]


def test_an_answer_of_too_many_logprobs(client: TestClient) -> None:
    # 16 prompts of 2 tokens, 36 samples, 90 new tokens each: 16 · 36 · 92 = 52,992, 21 for each
    fields = {"prompt": ["a"] * 16, "n": 36, "max_tokens": 90, "logprobs": 20, "echo": True}
    for more in ({}, {"temperature": 0}):
        error = refused(client.post("/v1/completions", json={**fields, **more}), 400)
        assert (
            "within 1,048,576 log-probabilities, but 21 for each of 52,992 tokens"
            in error["message"]
        )
        assert error["param"] == "logprobs"


def test_context_length_has_openais_code(client: TestClient) -> None:
    for path in ("/v1/completions", *PATHS):
        answer = client.post(path.format(engine="x"), json={"prompt": "a b " * 100})
        error = refused(answer, 400)
        assert error["code"] == "context_length_exceeded"


def test_a_large_body_is_refused_told_or_not(client: TestClient) -> None:
    assert refused(client.post("/completions", content=b"x" * (MAX_BODY_BYTES + 1)), 413)
    parts: Iterator[bytes] = iter([b"x" * 2**20] * 17)
    assert refused(client.post("/completions", content=parts), 413)["code"] == "too_large"


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    sent: list[Any] = []

    async def never() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    limit = BodyLimit(lambda *_: pytest.fail("it was handed on"), seconds=0.01)
    anyio.run(limit, {"type": "http", "headers": []}, never, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "too_slow"


def test_a_full_queue_says_when_to_come_again(opt: OPT, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(make_batch(opt, 4096), 4096, 16)
    submit = engine.submit
    cancelled: list[Any] = []

    def full_for_b(request: Any, *rest: Any) -> Any:
        if request.prompt[1:] == opt.encode("b"):
            raise Overloaded(3.2)
        return submit(request, *rest)

    monkeypatch.setattr(engine, "submit", full_for_b)
    monkeypatch.setattr(engine, "cancel", cancelled.append)
    with TestClient(build_app(opt, engine, Options(name=NAME))) as client:
        for path in ("/v1/completions", "/completions"):
            answer = client.post(path, json={"prompt": ["a", "b", "a"]})
            error = refused(answer, 429)
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
            assert answer.headers["Retry-After"] == "4"
    assert [job.request.prompt[1:] for job in cancelled] == [opt.encode("a")] * 2
    engine.close(drains=False)


def test_a_service_that_is_not_ready_says_so(opt: OPT, engine: Engine) -> None:
    service = Service(Options(name=NAME))
    with TestClient(build(service)) as client:
        for state in ("loading the model", "stopping"):
            for answer in (
                client.get("/health"),
                client.get("/v1/models"),
                client.post("/v1/completions", json={"prompt": "a"}),
                client.post("/completions", json={"prompt": "a"}),
            ):
                error = refused(answer, 503)
                assert state in error["message"]
                assert answer.headers["Retry-After"] == "5"
            assert client.get("/metrics").status_code == 200
            if state == "loading the model":
                service.open(opt, engine)
                assert client.get("/health").json() == {"status": "ok"}
                service.drain()


def test_a_request_that_takes_too_long(opt: OPT, engine: Engine) -> None:
    app = build_app(opt, engine, Options(name=NAME, timeout=1e-9))
    with TestClient(app) as client:
        answer = client.post("/v1/completions", json={"prompt": "a"})
        error = refused(answer, 504)
        assert "within 1e-09 s (`--timeout`)" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        body = client.post("/v1/completions", json={"prompt": "a", "stream": True}).text
    (event,) = body.removesuffix("\n\n").split("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "deadline"


def test_a_failing_engine_is_500_without_details(opt: OPT, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(opt, 4096)
    engine = Engine(batch, 4096, 16)
    monkeypatch.setattr(batch, "step", lambda: 1 / 0)
    with TestClient(build_app(opt, engine, Options(name=NAME))) as client:
        error = refused(client.post("/v1/completions", json={"prompt": "a"}), 500)
        assert error["message"] == "The server failed at this request. Its log says why."
        monkeypatch.undo()
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200
    engine.close(drains=False)


def test_a_fault_of_ours_is_500_without_details(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaseq_plugin.serve.completions.plan", lambda *_: 1 / 0)
    error = refused(client.post("/v1/completions", json={"prompt": "a"}), 500)
    assert "division" not in error["message"]
    counted = 'metaseq_requests_total{route="/v1/completions",status="500"} 1.0'
    assert counted in client.get("/metrics").text


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:6010", 200), ("lab.localhost.", 200), ("127.0.0.1:6010", 200),
     ("[::1]:6010", 200), ("lab-7:6010", 200), ("pages.example", 421), ("127.0.0.1.pages.example:6010", 421),
     ("localhost.pages.example", 421), ("lab-7.pages.example", 421), ("[::1", 421), ("a b", 421)],
)  # fmt: skip
def test_a_server_for_this_machine_is_not_for_web_pages(
    opt: OPT, engine: Engine, host: str, status: int
) -> None:
    service = Service(Options(name=NAME))
    service.open(opt, engine)
    with TestClient(build(service, only_at="Lab-7")) as client:
        for path in ("/health", "/", "/v1/models"):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == status
            if status == 421:
                error = refused(answer, 421)
                assert error["code"] == "wrong_host"
                assert f"but is {host}." in error["message"]


@pytest.fixture
def guarded(opt: OPT, engine: Engine) -> Iterator[TestClient]:
    app = build_app(opt, engine, Options(name=NAME, keys=("first", "second")))
    with TestClient(app) as client:
        yield client


def test_keys(guarded: TestClient) -> None:
    for header in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Bearer"},
                   {"Authorization": "Basic first"}):  # fmt: skip
        for path in ("/v1/completions", "/completions", "/no/such/path"):
            error = refused(guarded.post(path, content=b"{", headers=header), 401)
            assert error["code"] == "invalid_api_key"
        refused(guarded.get("/metrics", headers=header), 401)
    for value in ("Bearer second", "bearer first", "second"):
        assert guarded.get("/v1/models", headers={"Authorization": value}).status_code == 200
    for path in ("/health", "/"):
        assert guarded.get(path).status_code == 200


def test_who_a_request_is_from(
    guarded: TestClient, client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = engine.submit
    clients: list[str] = []

    def noted(request: Any, listener: Any, client: str, deadline: float) -> Any:
        clients.append(client)
        return submit(request, listener, client, deadline)

    monkeypatch.setattr(engine, "submit", noted)
    headers = {"Authorization": "Bearer second"}
    guarded.post("/v1/completions", json={"prompt": "a", "user": "ann"}, headers=headers)
    guarded.post("/completions", json={"prompt": "a"}, headers=headers)
    client.post("/v1/completions", json={"prompt": "a", "user": "ann"})
    assert clients == ["1:ann", "1:", "testclient:ann"]


def test_a_file_of_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n  second \n")
    path.chmod(0o600)
    assert read_keys(path) == ["first", "second"]
    assert not caplog.records
    path.chmod(0o644)
    read_keys(path)
    assert "others may read the keys" in caplog.text
    path.write_text("\ufeff first\n  # indented\n")
    assert read_keys(path) == ["first"]
    for key in ("two words", "clé", "tab\tin"):
        path.write_text(f"first\n{key}\n")
        with pytest.raises(UserError, match=r"without spaces.*but line 2 of") as refusal:
            read_keys(path)
        assert key not in str(refusal.value)
    path.write_text("# none\n")
    with pytest.raises(UserError, match="`--api-key-file` must hold a key"):
        read_keys(path)
    with pytest.raises(UserError, match="`--api-key-file` must be a text file"):
        read_keys(tmp_path)


def test_no_keys_let_everybody_in() -> None:
    assert Keys(()).hashes == []
    assert Keys(["a", "b"]).find("Bearer b") == 1
    assert Keys(["a"]).find("Bearer \ud800") is None
