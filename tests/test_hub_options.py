"""What may be asked of ``OPT.generate`` and ``OPT.stream`` beyond a length, and that both give the same."""

from typing import Any, Callable, Optional, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import Batch
from metaseq_plugin.generation.completion import Completion, Piece
from metaseq_plugin.generation.options import MEANINGS, Options, default_of
from metaseq_plugin.hub import OPT
from tests.hostile.doors import write_model

PROMPTS: list[Any] = ["the cat", "", "a mat,\n", "naïve ☕", [5, 6, 7]]
EOS = 2


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    """A tiny random model with a byte-level tokenizer; its 40 positions leave room for about 30 new tokens."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    write_model(folder)
    return OPT.from_pretrained(folder)


def joined(pieces: list[Piece]) -> Completion:
    """What ``generate`` gives where these are the pieces; offsets are not of pieces."""
    assert [piece.finish_reason is None for piece in pieces[:-1]] == [True] * (len(pieces) - 1)
    reason = pieces[-1].finish_reason
    assert reason is not None
    return Completion(
        "".join(piece.text for piece in pieces),
        [token for piece in pieces for token in piece.tokens],
        [score for piece in pieces for score in piece.scores],
        reason,
        [top for piece in pieces for top in piece.top_scores],
        [],
    )


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    """Options of one sample, by chance."""
    choices: dict[str, st.SearchStrategy[Any]] = {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "top_k": st.integers(0, 9),
        "top_p": st.sampled_from([0.3, 0.9, 1.0]),
        "top_p_decay": st.sampled_from([0.5, 1.0]),
        "presence_penalty": st.sampled_from([-1.0, 0.0, 2.0]),
        "prompt_frequency_penalty": st.sampled_from([0.0, 1.0]),
        "logit_bias": st.dictionaries(st.integers(2, 200), st.floats(-9, 9), max_size=3),
        "min_new_tokens": st.integers(0, 4),
        "stop": st.lists(st.text("aet ,�\n", min_size=1, max_size=2), max_size=3),
        "echo": st.booleans(),
        "with_scores": st.just(True),
        "top_scores": st.integers(0, 3),
    }
    names = draw(st.sets(st.sampled_from(sorted(choices))))
    return {name: draw(choices[name]) for name in sorted(names)}


@given(
    options=asked(),
    seed=st.integers(0, 99),
    prompt=st.sampled_from(PROMPTS),
    new=st.integers(4, 20),
)
@settings(deadline=None, max_examples=60)
def test_pieces_are_the_completion(
    opt: OPT, options: dict[str, Any], seed: int, prompt: Any, new: int
) -> None:
    ((whole,),) = opt.generate([prompt], new, seed=seed, **options)
    found = joined(list(opt.stream(prompt, new, seed=seed, **options)))
    assert found == whole._replace(offsets=[])
    assert whole.text is not None
    stops = options.get("stop", [])
    if not options.get("min_new_tokens") and not options.get("echo"):
        assert not any(stop in whole.text for stop in stops)


def test_a_stream_that_is_left_early_ends_its_row(opt: OPT, monkeypatch: Any) -> None:
    batches = []

    def watched(*arguments: Any) -> Batch:
        batches.append(Batch(*arguments))
        return batches[-1]

    monkeypatch.setattr("metaseq_plugin.hub.Batch", watched)
    pieces = opt.stream([5, 6], 30, min_new_tokens=30, seed=1)
    next(pieces)
    (row,) = batches[0].rows
    assert 0 < len(row.tokens) < 30
    pieces.close()
    assert row.finish_reason == "cancelled"
    assert batches[0].rows == []


def test_a_stream_without_tokenizer_tells_each_token(opt: OPT) -> None:
    bare = OPT(opt.model, opt.dictionary, None)
    found = list(bare.stream([5, 6], 7, min_new_tokens=7, seed=1))
    assert [len(piece.tokens) for piece in found] == [1] * 7
    assert {piece.text for piece in found} == {""}
    assert joined(found).tokens == bare.generate([[5, 6]], 7, min_new_tokens=7, seed=1)[0][0].tokens


def test_best_of_returns_the_likeliest_per_token(opt: OPT) -> None:
    drawn = opt.generate(PROMPTS, 9, num_samples=6, seed=4)
    best = opt.generate(PROMPTS, 9, num_samples=2, best_of=6, seed=4)
    for samples, chosen in zip(drawn, best):
        ranked = sorted(samples, key=lambda c: -sum(c.scores) / len(c.scores))
        assert chosen == ranked[:2]
    bare = opt.generate(PROMPTS, 9, num_samples=2, best_of=6, seed=4, with_scores=False)
    assert [[c.tokens for c in chosen] for chosen in bare] == [[c.tokens for c in chosen] for chosen in best]  # fmt: skip
    assert {len(c.scores) for chosen in bare for c in chosen} == {0}


def test_echo_puts_the_prompt_first_with_its_scores(opt: OPT) -> None:
    options: dict[str, Any] = {"seed": 3, "top_scores": 2, "num_samples": 2}
    plain = opt.generate(PROMPTS, 8, **options)
    echoed = opt.generate(PROMPTS, 8, echo=True, **options)
    scored = opt.score(PROMPTS, top_scores=2)
    for prompt, before, after, read in zip(PROMPTS, plain, echoed, scored):
        text = prompt if isinstance(prompt, str) else opt.decode(prompt)
        for one, other in zip(before, after):
            assert other.text == text + (one.text or "")
            assert other.tokens == read.tokens + one.tokens
            assert other.scores == pytest.approx(read.scores + one.scores, abs=1e-4)
            tops = [[token for token, _ in top] for top in other.top_scores]
            assert tops == [[t for t, _ in top] for top in read.top_scores + one.top_scores]
            assert len(other.offsets) == len(other.tokens)


def test_offsets_are_where_tokens_begin(opt: OPT) -> None:
    ids = opt.encode("the cat ☕ sat")
    ((found,),) = opt.generate([ids], 6, echo=True, temperature=0.0)
    assert found.text is not None
    for number, offset in enumerate(found.offsets[: len(ids)]):
        whole = opt.decode(ids[:number])  # a character that is cut ends in U+FFFD
        assert offset == len(whole.rstrip("�"))
    assert found.offsets == sorted(found.offsets)
    assert found.offsets[-1] <= len(found.text)


def test_top_scores_are_the_likeliest(opt: OPT) -> None:
    ((found,),) = opt.generate(["the cat"], 9, temperature=0.0, top_scores=3)
    assert [top[0] for top in found.top_scores] == list(zip(found.tokens, found.scores))
    assert [len(top) for top in found.top_scores] == [3] * len(found.tokens)


def test_a_bias_keeps_a_token_out_or_brings_it_in(opt: OPT) -> None:
    ((out,),) = opt.generate(["the cat"], 20, temperature=0.0, logit_bias={EOS: -100.0})
    assert (EOS in out.tokens, out.finish_reason) == (False, "length")
    biased: dict[Any, Any] = {"7": 100}
    ((only,),) = opt.generate(["the cat"], 5, temperature=0.0, logit_bias=biased)
    assert only.tokens == [7] * 5


def test_a_sentence_ends_where_a_tokens_text_does(opt: OPT) -> None:
    ends = [opt.decode([token])[-1] for token in opt.sentence_ends]
    assert set(ends) == {".", "?", "!"}
    assert len(ends) == sum(
        opt.decode([token]).endswith((".", "?", "!")) for token in range(len(opt.dictionary))
    )
    assert opt.read_options({"top_p_decay": 0.9}).settings.sentence_ends == opt.sentence_ends
    assert opt.read_options({}).settings.sentence_ends == ()


def test_an_empty_text_begins_a_document(opt: OPT) -> None:
    assert opt.generate([""], 5, seed=1) == opt.generate([[EOS]], 5, seed=1)


def test_every_option_has_a_meaning_a_type_and_a_default(opt: OPT) -> None:
    assert ["max_new_tokens", *get_type_hints(Options)] == list(MEANINGS)
    given: dict[str, Any] = {name: default_of(name) for name in MEANINGS}
    assert opt.read_options(given) == opt.read_options({})


Use = Callable[[Any], Any]
REFUSED: dict[str, tuple[Use, str]] = {
    "unknown option": (lambda o: o.generate(["a"], temprature=1), "An option must be one of .* but is temprature"),
    "best_of below num_samples": (lambda o: o.generate(["a"], num_samples=3, best_of=2), r"`best_of` must be at least `num_samples` \(3\), but is 2"),
    "best_of of 1.5": (lambda o: o.generate(["a"], best_of=1.5), "`best_of` must be a whole number or None, but is 1.5"),
    "best of equal samples": (lambda o: o.generate(["a"], best_of=2, temperature=0), "`best_of` must be 1 at temperature 0"),
    "best_of and beam": (lambda o: o.generate(["a"], best_of=2, beam=2), "`beam` must be 1"),
    "echo of 1": (lambda o: o.generate(["a"], echo=1), "`echo` must be True or False, but is 1"),
    "bias as a list": (lambda o: o.generate(["a"], logit_bias=[5]), r"`logit_bias` must give token ids each a number, but is \[5\]"),
    "bias of text": (lambda o: o.generate(["a"], logit_bias={"x": 1}), "`logit_bias` must give token ids"),
    "bias of half a token": (lambda o: o.generate(["a"], logit_bias={5.5: 1}), "`logit_bias` must give token ids"),
    "bias by text": (lambda o: o.generate(["a"], logit_bias={5: "x"}), "`logit_bias` must give token ids"),
    "bias beyond the vocabulary": (lambda o: o.generate(["a"], logit_bias={999: 1}), "`logit_bias` must hold token ids from 0 to 287"),
    "top scores negative": (lambda o: o.generate(["a"], top_scores=-1), "`top_scores` must be between 0 and 100, but is -1"),
    "top scores without scores": (lambda o: o.generate(["a"], top_scores=1, with_scores=False), "`top_scores` must be 0 where no scores are asked for"),
    "top scores of a score": (lambda o: o.score(["a"], top_scores=101), "`top_scores` must be between 0 and 100"),
    "penalty as text": (lambda o: o.generate(["a"], presence_penalty="1"), "`presence_penalty` must be a number"),
    "decay of 2": (lambda o: o.generate(["a"], top_p_decay=2.0), "`top_p_decay` must be between 0 and 1"),
    "stream of samples": (lambda o: o.stream("a", num_samples=2), "`num_samples` must be 1 to stream, but is 2"),
    "stream of the best": (lambda o: o.stream("a", best_of=2), "`best_of` must be 1 to stream, but is 2"),
    "stream of a search": (lambda o: o.stream("a", beam=2), "`beam` must be 1 to stream, but is 2"),
    "stream of a list": (lambda o: o.stream(["a"]), "must be whole numbers, but it holds 'a'"),
    "stream of what is too long": (lambda o: o.stream([5] * 41), "must have at most 40 tokens"),
    "stream of lone surrogates": (lambda o: o.stream("\udc80"), "without lone surrogates"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(opt: OPT, name: str) -> None:
    use, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence) as refusal:
        use(opt)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("text", [None, ""])
def test_a_stop_must_be_text(opt: OPT, text: Optional[str]) -> None:
    with pytest.raises(UserError, match="`stop` must be"):
        opt.stream("a", stop=[text])  # type: ignore[list-item]
