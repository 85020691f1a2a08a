"""A model in this process: its answers are those of full passes and of ``OPT.generate``, whatever is asked together."""

import random
from typing import Any, Sequence

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.model import LocalModel
from metaseq_plugin.evaluate.requests import (
    Answer,
    Foreseeing,
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
    Whole,
    WholeAnswer,
)
from metaseq_plugin.hub import OPT
from tests.serve.tiny import POSITIONS, tiny_opt

EOS = 2
LONG = "the cat sat on the mat. a dog ate it; Why? " * 6
SAMPLED = {"max_new_tokens": 9, "temperature": 1.0, "top_p": 0.9, "num_samples": 3, "seed": 7}


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    return tiny_opt(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(opt: OPT) -> LocalModel:
    return LocalModel(opt)


def ask(model: LocalModel, *requests: Request) -> list[Answer]:
    found = dict(model.answer(requests))
    assert found.keys() == set(range(len(requests)))
    return [found[index] for index in range(len(requests))]


def score(opt: OPT, row: Sequence[int], count: int) -> float:
    """What a full pass gives the last tokens of ``row``."""
    with torch.no_grad():
        logits, _ = opt.model.decoder(torch.tensor([row[:-1]]))
    log_probs = logits[0, -count:].log_softmax(-1)
    return float(log_probs[range(count), list(row[-count:])].double().sum())


def test_pairs(model: LocalModel) -> None:
    given = [("the cat", " sat"), ("the cat", " sat on the mat"), ("", "naïve"), ("the ca", "t")]
    for pair, found in zip(given, ask(model, *(Pair(*texts) for texts in given))):
        tokens = model.opt.encode("".join(pair))
        assert isinstance(found, PairAnswer)
        expected = score(model.opt, [EOS, *tokens], found.ntokens)
        assert found.log_likelihood == pytest.approx(expected, abs=1e-4)
        assert found.is_merged == (pair == ("the ca", "t"))


def test_a_context_that_is_too_long_is_cut_and_counted(model: LocalModel) -> None:
    (found,) = ask(model, Pair(LONG, " sat"))
    tokens = [EOS, *model.opt.encode(LONG.rstrip() + "  sat")]
    assert isinstance(found, PairAnswer)
    assert found.ncut == len(tokens) - (POSITIONS + 1)
    expected = score(model.opt, tokens[-(POSITIONS + 1) :], found.ntokens)
    assert found.log_likelihood == pytest.approx(expected, abs=1e-4)


def test_a_whole_text(model: LocalModel) -> None:
    tokens = model.opt.encode(LONG)
    assert POSITIONS < len(tokens) < 2 * POSITIONS
    (found,) = ask(model, Whole(LONG))
    assert isinstance(found, WholeAnswer)
    # </s> is there twice, as lm_eval has it, and the second one is scored.
    assert (found.ntokens, found.nwindows) == (len(tokens) + 1, 2)
    whole = [EOS, *tokens]
    expected = score(model.opt, [EOS, *whole[:POSITIONS]], POSITIONS)
    expected += score(model.opt, whole[-POSITIONS - 1 :], len(whole) - POSITIONS)
    assert found.log_likelihood == pytest.approx(expected, abs=1e-3)
    once = LocalModel(model.opt, separators=1)
    (found,) = ask(once, Whole("the cat"))
    assert isinstance(found, WholeAnswer)
    ids = model.opt.encode("the cat")
    assert found.ntokens == len(ids)
    assert found.log_likelihood == pytest.approx(score(model.opt, [EOS, *ids], len(ids)), abs=1e-4)
    assert "1 </s> before the text" in once.about["whole"]
    assert "2 </s> before the text" in model.about["whole"]


def test_prompts_are_what_generate_writes(model: LocalModel) -> None:
    greedy = {"max_new_tokens": 6, "temperature": 0.0, "stop": ["\n"]}
    found = ask(model, Prompt("the cat", SAMPLED), Prompt("a dog", greedy), Prompt("the", SAMPLED))
    for answer, (text, options) in zip(
        found, [("the cat", SAMPLED), ("a dog", greedy), ("the", SAMPLED)]
    ):
        (expected,) = model.opt.generate([text], **options)  # type: ignore[arg-type]
        assert answer == PromptAnswer(tuple(str(one.text) for one in expected))


def test_a_prompts_samples_depend_on_nothing_else(model: LocalModel) -> None:
    """So a run that was killed, asks the rest in another order, or in other batches, gets the same."""
    texts = ["the cat", "a dog ate", "naïve café", "Why?", "the cat", "mat"]
    requests = [
        Prompt(text, {**SAMPLED, "seed": 7 + number % 2}) for number, text in enumerate(texts)
    ]
    expected = ask(model, *requests)
    small = LocalModel(model.opt, batch_tokens=64)
    for seed in range(3):
        order = random.Random(seed).sample(range(len(requests)), len(requests))
        first, rest = order[:2], order[2:]
        for part in (first, rest):
            for asked in (model, small):
                found = ask(asked, *(requests[number] for number in part))
                assert found == [expected[number] for number in part]
    again = ask(model, Prompt("the cat", SAMPLED), Prompt("the cat", {**SAMPLED, "seed": 8}))
    assert again[0] == expected[0] != again[1]
    assert len(set(again[0].texts)) == 3  # type: ignore[union-attr]


def test_a_prompt_that_is_too_long_is_cut_and_counted(model: LocalModel) -> None:
    options = {"max_new_tokens": 10, "temperature": 0.0}
    (found,) = ask(model, Prompt(LONG, options))
    tokens = [EOS, *model.opt.encode(LONG)]
    assert isinstance(found, PromptAnswer)
    assert found.ncut == len(tokens) - (POSITIONS - 10)
    asked = model.opt.read_options(options)
    ((expected,),) = model.opt.continue_rows([tokens[-(POSITIONS - 10) :]], [asked], [0])
    assert found.texts == (expected.text,)


def test_batch_tokens_change_nothing(opt: OPT, model: LocalModel) -> None:
    requests: list[Request] = [
        Pair("the cat", " sat"),
        Whole(LONG),
        Pair("a dog ate the cat's", " dinner"),
        Whole("x"),
    ]
    small = LocalModel(opt, batch_tokens=1)
    for one, other in zip(ask(model, *requests), ask(small, *requests)):
        assert one[0] == pytest.approx(other[0], abs=1e-3)
        assert one[1:] == other[1:]


def test_the_same_requests_give_the_same_bits(model: LocalModel) -> None:
    requests: list[Request] = [Pair("the cat", " sat"), Pair("the cat", " ate"), Whole(LONG)]
    assert ask(model, *requests) == ask(model, *requests)


REFUSED: dict[str, tuple[Request, str]] = {
    "no token": (Pair("the cat", ""), "A continuation must have at least one token"),
    "too many": (Pair("", LONG), f"A continuation must have from 1 to {POSITIONS} tokens"),
    "an option": (Prompt("a", {"max_tokens": 3}), "An option must be one of .* but is max_tokens"),
    "new tokens": (
        Prompt("a", {"max_new_tokens": POSITIONS}),
        f"`max_new_tokens` must be below the {POSITIONS} tokens",
    ),
    "surrogates": (Pair("a", "\ud800"), "Text must be Unicode without lone surrogates"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_are_refused(model: LocalModel, name: str) -> None:
    request, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        ask(model, request)


def test_what_cannot_be_answered_is_foreseen(model: LocalModel) -> None:
    most = " ".join(["the"] * POSITIONS)  # a token a word
    assert len(model.opt.encode(most)) == POSITIONS
    assert model.obstacle(Pair("a", f" {most}")) is None
    more = f" {most} the"
    assert model.obstacle(Pair("a", more)) == (
        f"a continuation has {POSITIONS + 1} tokens, and the model reads {POSITIONS}"
    )
    with pytest.raises(UserError):
        ask(model, Pair("a", more))
    assert isinstance(model, Foreseeing)
    assert model.obstacle(Whole(LONG)) is None
    assert model.obstacle(Prompt(LONG, {"max_new_tokens": POSITIONS - 1})) is None
    assert model.obstacle(Prompt("a", {"max_new_tokens": POSITIONS})) == (
        f"{POSITIONS} new tokens are asked for, and the model reads {POSITIONS}"
    )
    with pytest.raises(UserError, match="without lone surrogates"):
        model.obstacle(Pair("a", "\ud800" * POSITIONS))


def test_models_that_are_refused(opt: OPT) -> None:
    bare: Any = OPT(opt.model, opt.dictionary, None)
    with pytest.raises(UserError, match="`--path` must have tokenizer files"):
        LocalModel(bare)
    with pytest.raises(UserError, match="`--batch-tokens` must be at least 1, but is 0"):
        LocalModel(opt, batch_tokens=0)
