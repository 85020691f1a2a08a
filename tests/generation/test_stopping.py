"""The last tokens tell what the whole text would, on any tokens of every kind of tokenizer."""

import io
from pathlib import Path
from typing import Sequence

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.generation.stopping import StopTexts
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.sentencepiece import MODEL_FILE
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces

TEXTS = ["the cat sat on the mat\n\n", "a dog  ate the cat's dinner\n", "naïve café ☕ 😀😀\n"] * 8
ALPHABET = sorted(set("".join(TEXTS)) | {"\ufffd", "é", "€"})


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    """Byte-level; SentencePiece as we train it; one trained elsewhere, which drops spaces in front."""
    folders: list[Path] = [tmp_path_factory.mktemp(name) for name in ("bytes", "ours", "theirs")]
    train_byte_level_bpe(TEXTS, 320, folders[0])
    train_sentence_pieces(TEXTS, 340, folders[1], exact_size=False)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, model_type="bpe", vocab_size=330,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folders[2] / MODEL_FILE).write_bytes(model.getvalue())
    return [from_folder(folder) for folder in folders]


@st.composite
def pieces(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Text's own tokens, single bytes of it, and tokens of all sorts, in any order."""
    any_token = st.integers(0, len(tokenizer) - 1)
    text = st.text(st.sampled_from(ALPHABET), max_size=6).map(
        lambda t: tokenizer.encode(t).tolist()
    )
    few_bytes = st.lists(st.integers(4, 3 + 256), min_size=1, max_size=4)
    parts = st.one_of(text, text, few_bytes, st.lists(any_token, max_size=3))
    return [token for part in draw(st.lists(parts, max_size=12)) for token in part]


def assert_same_answers(tokenizer: Tokenizer, stops: list[str], tokens: list[int]) -> None:
    """Of the tail and of the whole text after each token, until they are yes."""
    rule = StopTexts(stops, tokenizer.decode)
    for length in range(1, len(tokens) + 1):
        whole = tokenizer.decode(tokens[:length])
        expected = any(stop in whole for stop in stops)
        assert rule(tokens[:length]) is expected
        if expected:
            break


@pytest.mark.parametrize(
    "stops", [["qqqqq\U0001f0a1"], ["qq\U0001f0a1\U0001f0a1"], ["\ufffd\ufffd"], ["\ufffd" * 4], ["\U0001f0a1q"]]
)  # fmt: skip
def test_character_of_several_tokens(kinds: list[Tokenizer], stops: list[str]) -> None:
    for tokenizer in kinds:
        card = tokenizer.encode("\U0001f0a1")[-4:].tolist()
        letter = tokenizer.encode("q-q")[-1:].tolist()
        assert tokenizer.decode([*letter, *letter, *card]) == "qq\U0001f0a1"
        for count in range(9):
            tokens = [*letter * 20, *card * 6, *letter * count, *card * 3, *letter * 9]
            assert_same_answers(tokenizer, stops, tokens)


@given(data=st.data())
@settings(deadline=None, max_examples=400)
def test_tail_says_what_the_whole_text_says(kinds: list[Tokenizer], data: st.DataObject) -> None:
    tokenizer = data.draw(st.sampled_from(kinds))
    tokens = data.draw(pieces(tokenizer))
    text = tokenizer.decode(tokens)
    stops = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=5)
    if text:
        ends = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 9))
        stops = st.one_of(stops, ends.map(lambda pair: text[pair[0] : sum(pair)]))
    stop = data.draw(st.lists(stops, min_size=1, max_size=3))
    assert_same_answers(tokenizer, stop, tokens)


def test_only_the_tail_is_decoded(kinds: list[Tokenizer]) -> None:
    tokens = kinds[0].encode(TEXTS[0] * 50).tolist()
    sizes = []

    def decode(ids: Sequence[int]) -> str:
        sizes.append(len(ids))
        return kinds[0].decode(ids)

    assert not StopTexts(["\n\n\n"], decode)(tokens)
    assert max(sizes) <= 10


def test_tokens_without_text_are_looked_behind(kinds: list[Tokenizer]) -> None:
    tokenizer = kinds[0]
    tokens = [*tokenizer.encode("cat").tolist(), *[2] * 40, *tokenizer.encode("nap").tolist()]
    assert StopTexts(["catnap"], tokenizer.decode)(tokens)
