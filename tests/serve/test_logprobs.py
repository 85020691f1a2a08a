"""Log-probabilities: of the tokens of the text, with their alternatives, in the places that clients look at."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.choices import ChoiceText, Offsets, Shown, label, top_of
from metaseq_plugin.tokenizers.base import EOS
from tests.serve.tiny import ask, greedy


def logprobs(client: TestClient, **fields: Any) -> tuple[str, dict[str, list[Any]]]:
    (choice,) = ask(client, **fields)["choices"]
    return choice["text"], choice["logprobs"]


def test_they_are_the_hubs(client: TestClient, opt: OPT) -> None:
    expected = greedy(opt, "the cat", 8)
    _, found = logprobs(client, prompt="the cat", max_tokens=8, temperature=0, logprobs=0)
    assert found["token_logprobs"] == pytest.approx(expected.scores, abs=1e-5)
    assert [len(top) for top in found["top_logprobs"]] == [1] * len(expected.tokens)
    assert len(found["tokens"]) == len(found["text_offset"]) == len(expected.tokens)


def test_alternatives_fall_and_hold_the_token_that_was_taken(client: TestClient) -> None:
    _, found = logprobs(client, prompt="the cat", max_tokens=12, seed=1, logprobs=3)
    for token, score, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"]):
        assert top[token] == score
        assert 3 <= len(top) <= 4
        assert list(top.values()) == sorted(top.values(), reverse=True)


def test_an_echo_scores_the_prompt(client: TestClient, opt: OPT) -> None:
    prompt = "the cat sat"
    scored = opt.score([prompt])[0]
    text, found = logprobs(client, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    assert text == prompt
    assert found["token_logprobs"] == pytest.approx(scored.scores, abs=1e-5)
    assert "".join(found["tokens"]) == prompt
    lengths = [len(token) for token in found["tokens"]]
    assert found["text_offset"] == [sum(lengths[:place]) for place in range(len(lengths))]


@pytest.mark.parametrize("begins", [False, True])
def test_lm_eval_finds_every_token_of_its_ids(client: TestClient, opt: OPT, begins: bool) -> None:
    """Its ``parse_logprobs``: the continuation is ``[context:-1]``, the largest of each place tells greediness."""
    context, rest = opt.encode("the cat"), opt.encode(" sat on")
    ids = [EOS] * begins + context + rest
    asked = dict(max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1234)
    _, found = logprobs(client, prompt=ids, **asked)
    assert len(found["token_logprobs"]) == len(ids) + 1
    assert (found["token_logprobs"][0] is None) == begins
    scores = found["token_logprobs"][len(ids) - len(rest) : -1]
    tops = found["top_logprobs"][len(ids) - len(rest) : -1]
    expected = opt.score([ids])[0].scores[-len(rest) :]
    assert scores == pytest.approx(expected, abs=1e-5)
    for score, top in zip(scores, tops):
        assert max(top.values()) >= score
        assert score in top.values()


def test_a_greedy_continuation_is_told_to_be_one(client: TestClient, opt: OPT) -> None:
    ids = opt.encode("the cat")
    made = greedy(opt, ids, 4, min_new_tokens=4).tokens
    asked = dict(max_tokens=1, temperature=0, logprobs=1, echo=True)
    _, found = logprobs(client, prompt=ids + made, **asked)
    scores, tops = found["token_logprobs"][len(ids) : -1], found["top_logprobs"][len(ids) : -1]
    assert len(scores) == 4
    assert all(score == max(top.values()) for score, top in zip(scores, tops))


def test_an_offset_is_where_the_token_begins(client: TestClient) -> None:
    text, found = logprobs(client, prompt="the cat", max_tokens=6, seed=1, logprobs=0, echo=True)
    for token, offset in zip(found["tokens"], found["text_offset"]):
        if not token.startswith("bytes:") and token != "</s>":
            assert text[offset:].startswith(token)


def test_tokens_of_a_stop_text_are_left_out(client: TestClient, opt: OPT) -> None:
    whole = greedy(opt, "the cat", 16, min_new_tokens=16)
    stop = whole.text[4:7]
    asked = dict(prompt="the cat", max_tokens=16, temperature=0, min_tokens=1, logprobs=0)
    text, found = logprobs(client, **asked, stop=stop)
    assert whole.text.startswith(text + stop)
    assert all(offset < len(text) for offset in found["text_offset"])
    assert len(found["tokens"]) < len(whole.tokens)


def test_half_a_character_is_written_in_bytes(opt: OPT) -> None:
    assert opt.tokenizer is not None
    ids = [token for token in range(4, 300) if opt.tokenizer.token_bytes(token) == b"\xe2"]
    assert [label(opt.tokenizer, token) for token in ids] == ["bytes:\\xe2"]
    assert label(opt.tokenizer, EOS) == "</s>"


def test_offsets_count_characters(opt: OPT) -> None:
    assert opt.tokenizer is not None
    offsets = Offsets(opt.tokenizer)
    by_bytes = {opt.tokenizer.token_bytes(t): t for t in range(4, 300)}
    # A whole character in three tokens, and one whose end never comes.
    tokens = [by_bytes[bytes([byte])] for byte in "a☕b".encode() + b"\xe2\x98c"]
    assert [offsets.take(token) for token in tokens] == [0, 1, 1, 1, 2, 3, 3, 4]


def test_each_alternative_has_a_key_of_its_own(opt: OPT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opt.tokenizer is not None
    monkeypatch.setattr(type(opt.tokenizer), "token_bytes", lambda *_: b"x")
    found = top_of(opt.tokenizer, 7, -2.0, [(6, -1.0), (7, -2.0), (5, -3.0)])
    assert found == {"token_id:6": -1.0, "x": -2.0, "token_id:5": -3.0}


def test_an_end_without_text_stays(opt: OPT) -> None:
    assert opt.tokenizer is not None
    choice = ChoiceText(opt.tokenizer, [EOS], [], Shown(with_logprobs=True))
    pieces = [choice.begin([], []), choice.take(opt.encode("a")[0], -1.0, [])]
    pieces += [choice.take(EOS, -2.0, []), choice.end("eos")]
    entries = [entry for piece in pieces for entry in piece.entries]
    assert [(e.token, e.score, e.offset) for e in entries] == [("a", -1.0, 0), ("</s>", -2.0, 1)]
    assert pieces[-1].finish_reason == "stop"
