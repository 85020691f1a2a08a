"""A served model answers as the same one in process; and what is told where a server is busy, away or unable."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Iterator, Mapping, Optional

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate import http_client
from metaseq_plugin.evaluate.endpoint import AT_ONCE, EndpointModel, scored
from metaseq_plugin.evaluate.model import LocalModel
from metaseq_plugin.evaluate.requests import (
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
    Whole,
    WholeAnswer,
)
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.live import running
from tests.serve.tiny import NAME, POSITIONS, tiny_opt

MODELS = {"data": [{"id": "served", "max_model_len": 96}]}
SAMPLED = {"max_new_tokens": 9, "temperature": 1.0, "top_p": 0.9, "num_samples": 3, "seed": 7}
REQUESTS: list[Request] = [
    Pair("the cat", " sat"),
    Pair("the cat ", "sat on the mat"),
    Pair("the ca", "t"),  # the token " cat" lies on both sides
    Pair("", "naïve café ☕"),
    Pair("naïve caf", "é ☕"),
    Pair("naïve ", "☕"),
    Whole("a dog ate the cat's dinner. Why?"),
    Prompt("the cat", SAMPLED),
    Prompt("a dog", {"max_new_tokens": 12, "temperature": 0.0, "stop": ["e"]}),
]


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    return tiny_opt(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def url(opt: OPT) -> Iterator[str]:
    service = Service(Options(name=NAME, keys=("secret",)))
    engine = Engine(make_batch(opt, 4096), 4096, 16)
    service.open(opt, engine)
    try:
        with running(build(service), service) as address:
            yield address
    finally:
        engine.close(drains=False)


def test_a_server_of_ours_answers_as_the_model_in_process(opt: OPT, url: str) -> None:
    served = EndpointModel(url, "secret")
    found = dict(served.answer(REQUESTS))
    expected = dict(LocalModel(opt, separators=1).answer(REQUESTS))
    assert found.keys() == expected.keys()
    for index, answer in expected.items():
        if isinstance(answer, PromptAnswer):
            assert found[index] == answer
        else:
            assert isinstance(found[index], (PairAnswer, WholeAnswer))
            assert found[index][0] == pytest.approx(answer.log_likelihood, abs=1e-4)
            assert found[index][1:] == answer[1:]
    assert served.about["path"] == url
    assert (served.about["checkpoint"], served.about["longest"]) == (NAME, POSITIONS)


def test_what_greedy_decoding_writes_is_greedy(opt: OPT, url: str) -> None:
    ((first,),) = opt.generate(["the cat"], 4, temperature=0.0)
    assert first.text is not None
    served, local = EndpointModel(f"{url}v1", "secret"), LocalModel(opt)
    for text in (first.text, " sat"):
        for model in (served, local):
            ((_, answer),) = model.answer([Pair("the cat", text)])
            assert isinstance(answer, PairAnswer)
            tokens = opt.encode("the cat" + text)
            assert answer.is_greedy == (tokens[-len(first.tokens) :] == first.tokens)


@pytest.mark.parametrize(
    ("request_", "key", "sentence"),
    [
        (
            Pair("the cat sat " * 60, "on"),
            "secret",
            r"refuses \(400\): .*must have at most 96 tokens",
        ),
        (Pair("the cat", " sat"), "another", r"refuses \(401\)"),
        (Prompt("a", {"beam": 3}), "secret", "An option must be one of .* but is beam"),
        (Prompt("a", {"top_p": 3.0}), "secret", r"refuses \(400\): .*top_p"),
    ],
)
def test_what_a_server_of_ours_refuses(
    url: str, request_: Request, key: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        list(EndpointModel(url, key).answer([request_]))


Handle = Callable[[str, Mapping[str, Any]], tuple[int, Any, dict[str, str]]]


@contextmanager
def server(handle: Handle) -> Iterator[str]:
    """The address of a server that answers as ``handle`` (path, body) says: status, JSON, headers."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else {}
            status, told, headers = handle(self.path, body)
            sent = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_address[1]}"
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(http_client.time, "sleep", found.append)
    return found


def echoed(text: str, logprob: Optional[float] = -1.0) -> dict[str, Any]:
    """What a server says that makes a token of each character, and writes one more."""
    text = f"{text}!"
    return {
        "choices": [
            {
                "index": 0,
                "text": text,
                "logprobs": {
                    "tokens": list(text),
                    "token_logprobs": [logprob, *[-1.0] * (len(text) - 1)],
                    "top_logprobs": [{letter: -1.0, "?": -2.0} for letter in text],
                    "text_offset": list(range(len(text))),
                },
            }
        ]
    }


def test_a_busy_server_is_asked_again(pauses: list[float]) -> None:
    refusals = [(429, {"Retry-After": "3"}), (503, {}), (429, {"Retry-After": "9999"})]

    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path.endswith("models"):
            return 200, MODELS, {}
        if refusals:
            status, headers = refusals.pop(0)
            return status, {"error": {"message": "Busy."}}, headers
        assert body["prompt"] == "ab"
        return 200, echoed("ab"), {}

    with server(handle) as url:
        found = list(EndpointModel(url).answer([Pair("a", "b")]))
    assert found == [(0, PairAnswer(-1.0, 1, True))]
    assert pauses == [3.0, 2.0, 60.0]


def test_a_server_that_stays_busy_or_away_is_given_up(pauses: list[float]) -> None:
    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 503, {"error": {"message": "Loading."}}, {}

    with server(handle) as url:
        with pytest.raises(UserError, match=r"answers 503 \(Loading.\), 6 times. Look whether"):
            EndpointModel(url)
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    with pytest.raises(UserError, match=r"cannot be reached .*, 6 times"):
        EndpointModel(url)  # it has ended


def test_no_more_requests_than_a_few_are_under_way(pauses: list[float]) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path.endswith("models"):
            return 200, MODELS, {}
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.01)
        with lock:
            now[0] -= 1
        return 200, echoed(body["prompt"]), {}

    with server(handle) as url:
        found = dict(EndpointModel(url).answer([Pair("a", str(n)) for n in range(40)]))
    assert len(found) == 40
    assert 1 < most[0] <= AT_ONCE


@pytest.mark.parametrize(
    ("models", "answer", "sentence"),
    [
        (
            MODELS,
            {"choices": [{"text": "ab!", "logprobs": None}]},
            "must give prompts back with log-prob",
        ),
        (MODELS, {"choices": [{"text": "!", "logprobs": echoed("")}]}, "must give prompts back"),
        (MODELS, b"<html>", "must answer in JSON"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, {}, "`--served-model` must be one of a, b"),
        ({"data": []}, {}, "`--served-model` must be one of the models"),
        ({"status": "ok"}, {}, "must answer `/v1/models` as OpenAI's API does"),
        (["a"], {}, "must answer `/v1/models` as OpenAI's API does"),
        (MODELS, {"content": "ab!"}, "must answer `/v1/completions` as OpenAI's API does"),
        (MODELS, {"choices": []}, "must answer `/v1/completions` as OpenAI's API does"),
        (
            MODELS,
            {"choices": [{"text": "ab!", "logprobs": {"token_logprobs": [-1.0]}}]},
            r"must answer `/v1/completions` as OpenAI's API does, .*text_offset",
        ),
    ],
)
def test_servers_that_are_no_use(
    pauses: list[float], models: Any, answer: Any, sentence: str
) -> None:
    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 200, models if path.endswith("models") else answer, {}

    with server(handle) as url, pytest.raises(UserError, match=sentence):
        list(EndpointModel(url).answer([Pair("a", "b")]))
    assert pauses == []


def test_the_key_is_sent_to_no_other_server() -> None:
    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 302, {}, {"Location": "http://127.0.0.1:9/"}

    with server(handle) as url, pytest.raises(UserError, match=r"refuses \(302\)"):
        EndpointModel(url, "secret")


def test_a_model_by_name() -> None:
    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 200, {"data": [{"id": "a"}, {"id": "b"}]}, {}

    with server(handle) as url:
        assert EndpointModel(url, model="b").model == "b"


def test_a_first_token_without_score_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match="must score every token of a text behind </s>"):
        scored(echoed("ab", None), "ab", 0)
    assert scored(echoed("ab", None), "ab", 1) == PairAnswer(-1.0, 1, True)
    with pytest.raises(UserError, match="A continuation must have at least one token"):
        scored(echoed("ab"), "ab", 2)


def test_a_separator_that_a_server_shows_is_no_part_of_the_text() -> None:
    """Its letters move the offsets of all that follow, and its score is none."""
    told = {
        "tokens": ["</s>", "the", " cat", "!"],
        "token_logprobs": [None, -1.0, -2.0, -4.0],
        "top_logprobs": [None, {"the": -1.0}, {" dog": -1.5}, {"!": -4.0}],
        "text_offset": [0, 4, 7, 11],
    }
    answer = {"choices": [{"index": 0, "text": "the cat!", "logprobs": told}]}
    assert scored(answer, "the cat", 3) == PairAnswer(-2.0, 1, False)
    assert scored(answer, "the cat", 0) == PairAnswer(-3.0, 2, False)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a:port", "http://a b", "http://ä"]
)
def test_addresses_that_are_none(pauses: list[float], url: str) -> None:
    with pytest.raises(UserError, match="`--path` must be an address such as"):
        EndpointModel(url)
    assert pauses == []


def test_an_answer_without_its_texts(pauses: list[float]) -> None:
    def handle(path: str, body: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 200, MODELS if path.endswith("models") else {"choices": [{"index": 0}]}, {}

    with server(handle) as url, pytest.raises(UserError, match=r"as OpenAI's API does, .*text"):
        list(EndpointModel(url).answer([Prompt("a", {"max_new_tokens": 1})]))
