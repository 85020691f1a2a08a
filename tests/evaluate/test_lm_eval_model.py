"""``metaseq_opt``: what it answers to lm_eval's three kinds of requests, and what it refuses."""

from pathlib import Path
from typing import Any, Sequence

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from tests.evaluate.tiny_tasks import Forms
from tests.serve.tiny import POSITIONS, greedy

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

from lm_eval.api.instance import Instance

from metaseq_plugin.evaluate.lm_eval_model import MetaseqOPT, present

EOS = 2


@pytest.fixture(scope="module")
def model(forms: Forms) -> Any:
    return MetaseqOPT(path=str(forms.ours), device="cpu")


def ask(model: Any, kind: str, *arguments: tuple[Any, ...]) -> Any:
    """The answers to requests of one kind."""
    requests = [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]
    return getattr(model, kind)(requests, disable_tqdm=True)


@torch.no_grad()
def full_pass(model: Any, row: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of every token behind each of ``row``, (T, V)."""
    logits, _ = model.opt.model.decoder(torch.tensor([row]))
    return logits[0].log_softmax(-1)


def score(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    """What a full pass gives ``continuation``."""
    found = full_pass(model, [*context, *continuation][:-1])[len(context) - 1 :]
    return float(found[range(len(continuation)), list(continuation)].sum())


def test_a_text_stands_behind_one_separator(model: Any) -> None:
    ids = model.opt.encode("the cat")
    assert model.tok_encode("the cat") == model.tok_encode("</s>the cat") == [EOS, *ids]
    assert model.tok_encode("the cat", add_special_tokens=False) == ids
    assert (model.eot_token_id, model.prefix_token_id, model.max_length) == (EOS, EOS, POSITIONS)


@pytest.mark.parametrize(
    ("context", "continuation", "read", "scored"),
    [
        ("the cat", " sat", "the cat", " sat"),
        ("the cat ", "sat", "the cat", " sat"),  # a blank goes with the word behind it
        ("", "the cat", "", "the cat"),
    ],
)
def test_a_continuation_scores_what_a_full_pass_gives(
    model: Any, context: str, continuation: str, read: str, scored: str
) -> None:
    row = [EOS, *model.opt.encode(read + scored)]
    cut = 1 + len(model.opt.encode(read))
    ((found, is_greedy),) = ask(model, "loglikelihood", (context, continuation))
    assert found == pytest.approx(score(model, row[:cut], row[cut:]), abs=1e-4)
    assert not is_greedy


def test_what_greedy_decoding_writes_is_greedy(forms: Forms, model: Any) -> None:
    context = [EOS, *model.opt.encode("the cat")]
    tokens = greedy(forms.opt, context, 5).tokens
    other = [*tokens[:4], (tokens[4] + 1) % len(forms.opt.dictionary)]
    requests = [(("a", "b"), context, tokens), (("a", "c"), context, other)]
    found = model._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [is_greedy for _, is_greedy in found] == [True, False]
    assert found[0][0] == pytest.approx(score(model, context, tokens), abs=1e-4)


def test_a_context_that_is_too_long_is_cut_on_the_left(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    context = [EOS, *range(4, 4 + POSITIONS)]
    ((found, _),) = model._loglikelihood_tokens([(None, context, [7, 8])], disable_tqdm=True)
    # The last token is scored, not read, so one more than the model reads fits.
    assert found == pytest.approx(score(model, context[2:], [7, 8]), abs=1e-4)
    assert "2 tokens are left out on the left" in caplog.text


def test_a_long_text_is_read_in_windows(model: Any) -> None:
    text = "the cat sat on the mat. a dog ate it; Why? " * 6
    tokens = model.tok_encode(text)
    assert POSITIONS < len(tokens) < 2 * POSITIONS
    expected = score(model, [EOS], tokens[:POSITIONS])
    rest = tokens[POSITIONS:]
    before = tokens[len(tokens) - POSITIONS - 1 : POSITIONS]
    expected += score(model, before, rest)
    assert ask(model, "loglikelihood_rolling", (text,), ("x",), (text,)) == pytest.approx(
        [expected, score(model, [EOS], model.tok_encode("x")), expected], abs=1e-3
    )


def test_generation_ends_before_a_text_of_until(forms: Forms, model: Any) -> None:
    free = greedy(forms.opt, "the cat", 20).text
    stop = free[6:8]
    options = {"until": [stop, ""], "max_gen_toks": 20}
    found = ask(model, "generate_until", ("the cat", options), ("the cat", {"max_gen_toks": 3}))
    assert found == [free[: free.find(stop)], greedy(forms.opt, "the cat", 3).text]


def test_the_end_of_a_context_that_is_too_long_goes_on(model: Any) -> None:
    text = "the cat sat on the mat. " * 12
    found = ask(model, "generate_until", (text, {"max_gen_toks": POSITIONS - 10}))
    row = model.tok_encode(text)[-10:]
    asked = model.read_generation({"until": [], "max_gen_toks": POSITIONS - 10})
    ((expected,),) = model.opt.continue_rows([row], [asked], [0])
    assert found == [expected.text]
    assert len(expected.tokens) == POSITIONS - 10


def test_samples_of_equal_prompts_differ_and_follow_the_seed(model: Any) -> None:
    options = {"do_sample": True, "temperature": 1.0, "top_k": 50, "max_gen_toks": 12}
    requests = [("the cat", options)] * 3
    torch.manual_seed(5)
    first = ask(model, "generate_until", *requests)
    assert len(set(first)) == 3
    assert ask(model, "generate_until", *requests) == first
    torch.manual_seed(6)
    assert ask(model, "generate_until", *requests) != first


def test_rows_at_once_change_nothing(forms: Forms, model: Any) -> None:
    requests = [("the cat", " sat"), ("a dog ate the cat's", " dinner"), ("", "x")]
    alone = MetaseqOPT(path=str(forms.ours), device="cpu", batch_size=1)
    assert (alone.batch_size, model.batch_size) == (1, None)
    found, expected = (ask(m, "loglikelihood", *requests) for m in (alone, model))
    assert [total for total, _ in found] == pytest.approx([t for t, _ in expected], abs=1e-5)


def test_without_cuda_the_cpu_stands_in_for_lm_evals_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [present(device) for device in ("cuda:0", "cpu", None)] == ["cpu", "cpu", None]
    assert caplog.messages == ["there is no cuda:0 here: the CPU computes"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert present("cuda:0") == "cuda:0"


# fmt: off
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no path": ({}, "`--model_args` must be of path, .* but has no path"),
    "an argument that is none": ({"path": "x", "pth": 1}, "but has pth"),
    "batch size": ({"path": "x", "batch_size": 0}, "`--batch_size` must be auto or at least 1, but is 0"),
    "batch size as a word": ({"path": "x", "batch_size": "many"}, "`--batch_size` must be auto or at least 1"),
    "no model": ({"path": "no/such/model"}, "must exist, but no/such/model does not"),
}
# fmt: on


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_refused(name: str) -> None:
    arguments, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        MetaseqOPT(**arguments)


def test_a_model_without_tokenizer_is_refused(forms: Forms, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`path` must have tokenizer files"):
        MetaseqOPT(path=str(forms.ours), data=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_gen_toks": POSITIONS}, f"`max_gen_toks` must be below the {POSITIONS} tokens"),
        ({"no_repeat_ngram_size": 3}, "An option must be one of .* but is no_repeat_ngram_size"),
        ({"do_sample": True, "temperature": 1.0, "top_p": 2.0}, "`top_p` must be between 0 and 1"),
        ({"num_beams": 3, "temperature": 1.0, "until": ["a"]}, "`until` must be left out"),
    ],
)
def test_generations_that_are_refused(model: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ask(model, "generate_until", ("the cat", options))


def test_a_continuation_without_tokens_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="A continuation must have from 1 to 96 tokens"):
        model._loglikelihood_tokens([(None, [EOS], [])])
