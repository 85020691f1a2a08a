"""``POST /v1/completions``: what comes back is what the hub writes, in OpenAI's form."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build_app
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from tests.serve.tiny import NAME, ask, greedy, texts, tiny_opt


def test_text_is_the_hubs(client: TestClient, opt: OPT) -> None:
    expected = greedy(opt, "the cat", 12)
    answer = ask(client, prompt="the cat", max_tokens=12, temperature=0, model=NAME)
    assert texts(answer) == [expected.text]
    (choice,) = answer["choices"]
    reasons = {"eos": "stop", "length": "length"}
    assert choice["finish_reason"] == reasons[expected.finish_reason]
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert (answer["object"], answer["model"]) == ("text_completion", NAME)
    assert answer["id"].startswith("cmpl-")
    read, made = len(opt.encode("the cat")) + 1, len(expected.tokens)
    assert answer["usage"] == {
        "prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made,
    }  # fmt: skip


def test_sixteen_tokens_unless_asked_for_more(client: TestClient) -> None:
    answer = ask(client, prompt="a", min_tokens=16, seed=1)
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("kind", ["texts", "ids", "lists of ids"])
def test_prompts_come_in_four_forms(client: TestClient, opt: OPT, kind: str) -> None:
    words = ["the cat", "a dog ate"]
    ids = [opt.encode(word) for word in words]
    prompt: Any = {"texts": words, "ids": ids[0], "lists of ids": ids}[kind]
    answer = ask(client, prompt=prompt, max_tokens=8, temperature=0)
    expected = [greedy(opt, word, 8).text for word in words]
    assert texts(answer) == expected[: 1 if kind == "ids" else 2]
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts(answer))))


def test_samples_are_the_hubs_for_the_same_seed(client: TestClient, opt: OPT) -> None:
    words = ["the cat", "a dog"]
    expected = opt.generate(words, 8, num_samples=3, seed=5, top_p=0.9, top_k=50)
    answer = ask(client, prompt=words, max_tokens=8, n=3, seed=5, top_p=0.9, top_k=50)
    assert texts(answer) == [sample.text for samples in expected for sample in samples]
    assert len(set(texts(answer))) == 6


def test_choices_at_temperature_0_are_equal(client: TestClient, opt: OPT) -> None:
    answer = ask(client, prompt=["the", "a"], max_tokens=5, n=2, temperature=0)
    one, other = greedy(opt, "the", 5).text, greedy(opt, "a", 5).text
    assert texts(answer) == [one, one, other, other]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]


def test_best_of_gives_the_likeliest_per_token(client: TestClient, opt: OPT) -> None:
    samples = opt.generate(["the cat"], 8, num_samples=5, seed=3)[0]
    order = sorted(samples, key=lambda s: -sum(s.scores) / len(s.scores))
    answer = ask(client, prompt="the cat", max_tokens=8, n=2, best_of=5, seed=3)
    assert texts(answer) == [sample.text for sample in order[:2]]
    assert answer["usage"]["completion_tokens"] == sum(len(s.tokens) for s in samples)


def test_a_stop_text_ends_a_choice_before_it(client: TestClient, opt: OPT) -> None:
    text = greedy(opt, "the cat", 24).text
    stop = text[5:9]
    at = text.index(stop)
    answer = ask(client, prompt="the cat", max_tokens=24, temperature=0, stop=[stop, "never this"])
    assert texts(answer) == [text[:at]]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert texts(ask(client, prompt="the cat", max_tokens=24, temperature=0, stop=stop)) == [
        text[:at]
    ]


def test_a_biased_token_is_taken_always_or_never(client: TestClient, opt: OPT) -> None:
    (token,) = opt.encode("t")
    always = ask(client, prompt="a", max_tokens=3, temperature=0, logit_bias={str(token): 100})
    assert texts(always) == ["ttt"]
    first = greedy(opt, "a", 1).tokens[0]
    never = ask(client, prompt="a", max_tokens=1, temperature=0, logit_bias={str(first): -100})
    assert texts(never) != [opt.decode([first])]


def test_null_is_left_out(client: TestClient, opt: OPT) -> None:
    fields: dict[str, Any] = dict.fromkeys(
        ("n", "best_of", "stop", "suffix", "logprobs", "seed", "user", "stream")
    )
    answer = ask(client, prompt="the cat", max_tokens=6, temperature=0, **fields)
    assert texts(answer) == [greedy(opt, "the cat", 6).text]


def streamed(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, its end checked."""
    with client.stream("POST", "/v1/completions", json={**fields, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        body = "".join(answer.iter_text())
    *events, last, rest = body.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


STREAMS: list[dict[str, Any]] = [
    {"prompt": "the cat", "max_tokens": 20, "seed": 1},
    {"prompt": ["the cat", "a"], "max_tokens": 9, "seed": 2, "n": 2, "logprobs": 2},
    {"prompt": "naïve ☕", "max_tokens": 20, "seed": 3, "echo": True, "logprobs": 0},
    {"prompt": ["the", "a"], "max_tokens": 6, "temperature": 0, "n": 2, "logprobs": 1},
    {"prompt": "the cat", "max_tokens": 40, "seed": 4, "stop": ["t", "e", "\n"], "logprobs": 3},
    {"prompt": "the cat sat", "max_tokens": 0, "echo": True, "logprobs": 1},
]


@pytest.mark.parametrize("fields", STREAMS)
def test_a_stream_joined_is_the_answer(client: TestClient, fields: dict[str, Any]) -> None:
    whole = ask(client, **fields)
    events = streamed(client, **fields, stream_options={"include_usage": True})
    *pieces, usage = events
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    for choice in whole["choices"]:
        mine = [e["choices"][0] for e in pieces if e["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        reasons = [piece["finish_reason"] for piece in mine]
        assert reasons == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        if choice["logprobs"] is None:
            assert all(piece["logprobs"] is None for piece in mine)
            continue
        for name, values in choice["logprobs"].items():
            assert [v for piece in mine for v in piece["logprobs"][name]] == values


def test_usage_is_told_only_where_asked_for(client: TestClient) -> None:
    events = streamed(client, prompt="the", max_tokens=3, seed=1)
    assert all(event["usage"] is None and event["choices"] for event in events)


def test_a_factual_nucleus_is_the_hubs(tmp_path: Path) -> None:
    """Also behind tokens that are more than a full stop or a question mark, and end with one."""
    opt = tiny_opt(tmp_path, ["Why?? Oh...\n"] * 8)
    assert {opt.decode([token]) for token in opt.sentence_ends} >= {".", "?", "...", "??"}
    fields: dict[str, Any] = dict(
        top_p_decay=0.7, top_p=0.99, top_p_floor=0.01, seed=3, min_tokens=20
    )
    bias = {token: 4.0 for token in opt.sentence_ends if len(opt.decode([token])) > 1}
    engine = Engine(make_batch(opt, 4096), 4096, 16)
    with TestClient(build_app(opt, engine, Options(name=NAME))) as client:
        answer = ask(client, prompt="Why", max_tokens=20, logit_bias=bias, **fields)
    engine.close(drains=False)
    names = {"min_tokens": "min_new_tokens"}
    options: Any = {names.get(name, name): value for name, value in fields.items()}
    expected = opt.generate(["Why"], 20, logit_bias=bias, **options)[0][0]
    assert set(expected.tokens) & set(bias)
    assert texts(answer) == [expected.text]
