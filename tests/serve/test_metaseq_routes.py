"""metaseq's routes: its fields and its answers, without what was wrong with them."""

import uuid
from typing import Any

import pytest
from starlette.testclient import TestClient

from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.metaseq_protocol import MetaseqRequest
from metaseq_plugin.serve.metaseq_routes import PATHS, wanted_of
from tests.serve.tiny import NAME, ask, greedy, texts


@pytest.mark.parametrize("path", PATHS)
def test_each_route_answers_in_metaseqs_form(client: TestClient, opt: OPT, path: str) -> None:
    fields = {"prompt": ["the cat"], "max_tokens": 6, "temperature": 0.0}
    answer = ask(client, path.format(engine="any"), **fields)
    expected = greedy(opt, "the cat", 6)
    assert str(uuid.UUID(answer["id"])) == answer["id"]
    assert (answer["object"], answer["model"]) == ("text_completion", NAME)
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == expected.text
    assert logprobs["token_logprobs"] == pytest.approx(expected.scores, abs=1e-5)
    assert logprobs["top_logprobs"] is None
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == len(expected.tokens)
    reason = {"eos": "stop", "length": "length"}[expected.finish_reason]
    assert logprobs["finish_reason"] == choice["finish_reason"] == reason


def test_an_echo_begins_with_the_separator(client: TestClient, opt: OPT) -> None:
    answer = ask(client, "/completions", prompt="the cat", max_tokens=0, echo=True, logprobs=2)
    logprobs = answer["choices"][0]["logprobs"]
    assert answer["choices"][0]["text"] == "the cat"
    assert logprobs["tokens"][0] == "</s>"
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    expected = opt.score(["the cat"])[0].scores
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-5)
    assert all(len(top) >= 2 for top in logprobs["top_logprobs"][1:])


def test_a_stop_text_of_several_tokens_is_whole(client: TestClient, opt: OPT) -> None:
    text = greedy(opt, "the cat", 24).text
    stop = text[4:8]
    assert len(opt.encode(stop)) > 1
    fields = dict(prompt="the cat", max_tokens=24, temperature=0, stop=[stop])
    answer = ask(client, "/completions", **fields)
    assert texts(answer) == [text[: text.index(stop)]]
    assert answer["choices"][0]["logprobs"]["finish_reason"] == "stop"


def test_the_seed_counts(client: TestClient, opt: OPT) -> None:
    fields: dict[str, Any] = dict(prompt="a", max_tokens=8, seed=7, n=2, top_p=0.97)
    expected = opt.generate(["a"], 8, seed=7, num_samples=2, top_p=0.97)[0]
    for _ in range(2):
        assert texts(ask(client, "/completions", **fields)) == [one.text for one in expected]


def test_without_max_tokens_it_goes_on_to_the_end(client: TestClient, opt: OPT) -> None:
    answer = ask(client, "/completions", prompt="a", temperature=0)
    assert texts(answer) == [greedy(opt, "a", opt.generator.longest).text]


def test_numbers_may_be_text_and_unknown_fields_are_passed_over(client: TestClient) -> None:
    plain = dict(prompt="a", max_tokens=4, temperature=0)
    answer = ask(client, "/completions", prompt="a", max_tokens="4", temperature="0.0", x=1)
    assert texts(answer) == texts(ask(client, "/completions", **plain))


def test_each_field_means_what_it_meant() -> None:
    request = MetaseqRequest.model_validate(dict(
        prompt="a", min_tokens=2, temperature=0.5, top_p=0.9, seed=3, omega_bound=0.4,
        lambda_decay=0.8, alpha_presence=0.1, alpha_frequency=0.2, alpha_presence_src=0.3,
        alpha_frequency_src=0.4, n=2, best_of=3, logprobs=4,
    ))  # fmt: skip
    wanted = wanted_of(request, (5, 6))
    settings = wanted.settings
    assert (settings.min_new_tokens, settings.temperature, settings.top_p) == (2, 0.5, 0.9)
    assert (settings.top_p_decay, settings.top_p_floor) == (0.8, 0.4)
    assert settings.sentence_ends == (5, 6)
    assert (settings.presence_penalty, settings.frequency_penalty) == (0.1, 0.2)
    assert (settings.prompt_presence_penalty, settings.prompt_frequency_penalty) == (0.3, 0.4)
    assert (wanted.n, wanted.best_of, wanted.logprobs, settings.seed) == (2, 3, 4, 3)
    off = wanted_of(MetaseqRequest.model_validate({"prompt": "a"}), (5, 6)).settings
    assert (off.top_p_decay, off.sentence_ends) == (1.0, ())
