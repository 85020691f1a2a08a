"""Text as it comes is the text as a whole, on any tokens of every kind of tokenizer and any stop texts."""

import io
from pathlib import Path
from typing import Iterable, Optional, Sequence

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.generation.stop_finder import StopFinder
from metaseq_plugin.generation.text import CUT, TextStream, certain_part, continued_text
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.sentencepiece import MODEL_FILE
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces

TEXTS = ["the cat sat on the mat\n\n", "a dog  ate the cat's dinner\n", "naïve café ☕ 😀😀\n"] * 8
ALPHABET = sorted(set("".join(TEXTS)) | {CUT, "é", "e\u0301", "€", "\u200d", "👩", "a"})


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
def token_lists(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Text's own tokens, single bytes of it, and tokens of all sorts, in any order."""
    any_token = st.integers(0, len(tokenizer) - 1)
    text = st.lists(st.sampled_from(ALPHABET), max_size=6).map(
        lambda letters: tokenizer.encode("".join(letters)).tolist()
    )
    few_bytes = st.lists(st.integers(4, 3 + 256), min_size=1, max_size=4)
    parts = st.one_of(text, text, few_bytes, st.lists(any_token, max_size=3))
    return [token for part in draw(st.lists(parts, max_size=12)) for token in part]


@st.composite
def stop_texts(draw: st.DrawFn, text: str) -> list[str]:
    """Any texts, and parts of ``text``."""
    stops = st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=5).map("".join)
    if text:
        ends = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 9))
        stops = st.one_of(stops, ends.map(lambda pair: text[pair[0] : sum(pair)]))
    return draw(st.lists(stops, max_size=3))


def first_stop(text: str, stops: Iterable[str], floor: int = 0) -> Optional[int]:
    """Where the stop text begins that is complete first behind ``floor``; of several the longest."""
    found = [
        (begin + len(stop), begin)
        for stop in stops
        for begin in range(len(text))
        if text.startswith(stop, begin) and begin + len(stop) > floor
    ]
    return min(found)[1] if found else None


def num_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other))
    )


@pytest.mark.slow
@given(data=st.data())
@settings(deadline=None, max_examples=600)
def test_pieces_are_the_whole_text_up_to_its_first_stop(
    kinds: list[Tokenizer], data: st.DataObject
) -> None:
    tokenizer = data.draw(st.sampled_from(kinds))
    prompt, tokens = data.draw(token_lists(tokenizer)), data.draw(token_lists(tokenizer))
    least = data.draw(st.integers(0, len(tokens)))
    before, both = tokenizer.decode(prompt), tokenizer.decode(prompt + tokens)
    common = num_common(before, both)
    whole = both[common:]
    stops = data.draw(stop_texts(whole))
    early = certain_part(tokenizer.decode(prompt + tokens[: max(0, least - 1)]))
    floor = max(0, len(early) - common)
    end = first_stop(whole, stops, floor)

    stream = TextStream(tokenizer.decode, prompt, stops, least)
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.is_stopped:
            break
        sent = "".join(pieces)
        assert whole.startswith(sent)
        assert end is None or len(sent) <= end
    pieces.append(stream.end())
    assert "".join(pieces) == whole[:end]
    assert stream.is_stopped is (end is not None)
    assert (stream.push(5), stream.end()) == ("", "") or not stream.is_stopped
    assert continued_text(tokenizer.decode, prompt, tokens, stops, least) == (
        whole[:end],
        end is not None,
    )


@given(data=st.data())
@settings(deadline=None, max_examples=600)
def test_stops_are_found_whatever_pieces_the_text_comes_in(data: st.DataObject) -> None:
    """Few letters, so that stop texts overlap and begin within each other."""
    text = data.draw(st.text("abé", max_size=40))
    stops = data.draw(st.lists(st.text("abé", min_size=1, max_size=6), max_size=4))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    finder = StopFinder(stops)
    sent = ""
    for begin, end in zip([0, *cuts], [*cuts, len(text)]):
        sent += finder.push(text[begin:end])
        if finder.is_found:
            break
        rest = text[len(sent) : end]
        assert rest == "" or any(stop.startswith(rest) and stop != rest for stop in stops)
        longer = [text[k:end] for k in range(len(sent))]
        assert not any(stop.startswith(part) for stop in stops for part in longer if part)
    expected = first_stop(text, stops)
    assert finder.is_found is (expected is not None)
    assert sent + finder.held() == text[:expected]


def test_the_stop_text_that_is_complete_first_wins() -> None:
    assert StopFinder(["abcd", "bc"]).push("xabcd") == "xa"
    assert StopFinder(["bc", "abc"]).push("xabc") == "x"
    finder = StopFinder(["abcd"])
    assert [finder.push(piece) for piece in ("xa", "bc", "x", "ab")] == ["x", "", "abcx", ""]
    assert (finder.held(), finder.is_found) == ("ab", False)


def letters(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def test_no_half_character_is_sent() -> None:
    stream = TextStream(letters, b"x", [])
    assert [stream.push(byte) for byte in "é😀!".encode()] == ["", "é", "", "", "", "😀", "!"]
    assert [stream.push(0xF0), stream.push(0x9F), stream.end()] == ["", "", CUT]


def test_a_character_that_the_prompt_begins_is_new() -> None:
    face = "😀".encode()
    stream = TextStream(letters, b"so " + face[:2], [])
    assert [stream.push(byte) for byte in face[2:] + b"!"] == ["", "😀", "!"]
    assert TextStream(letters, b"so " + face[:2], []).push(ord("!")) == "!"
    assert TextStream(letters, b"so " + face[:2], []).end() == ""


def test_stop_texts_before_the_least_number_of_tokens_are_text() -> None:
    text, is_stopped = continued_text(letters, b"", b"a.b.c.d", ["."], min_new_tokens=4)
    assert (text, is_stopped) == ("a.b", True)
    assert continued_text(letters, b"", b"a.b.c.d", ["."], min_new_tokens=5) == ("a.b.c", True)
    # What is complete late may begin early.
    assert continued_text(letters, b"", b"abc", ["abc"], min_new_tokens=3) == ("", True)


@pytest.mark.parametrize(
    "tokens",
    [b"the cat sat. " * 400, b"\x80" * 5000, "猫".encode() * 1700, b" " * 5000, b"\xf0\x9f" * 2500],
    ids=["words", "bad bytes", "characters of three", "spaces", "cut characters"],
)
@pytest.mark.parametrize("prompt", [b"", b"a prompt of some length", b"\x80\x9f\xf0"])
def test_every_token_is_decoded_a_few_times_at_most(prompt: bytes, tokens: bytes) -> None:
    decoded = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return letters(ids)

    text, _ = continued_text(decode, prompt, tokens, ["no such text", "猫" * 50 + "x"])
    assert text.endswith(letters(tokens)[-1000:])
    assert decoded < 100 * len(tokens)
