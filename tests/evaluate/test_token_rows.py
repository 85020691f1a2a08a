"""Where a continuation begins, what is cut, and the windows of a text: by hand, and as lm_eval has them."""

from typing import Any, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.requests import Pair
from metaseq_plugin.evaluate.token_rows import boundary, encoded, pair_row, windows
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces
from tests.serve.tiny import TEXTS

EOS = 2
TEXT = st.text(st.sampled_from("the catsmo. \n\t☕é'"), max_size=12) | st.text(max_size=8)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bpe")
    train_byte_level_bpe(TEXTS, 300, folder)
    return from_folder(folder)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("sentencepiece")
    train_sentence_pieces(TEXTS, 320, folder, exact_size=False)
    return from_folder(folder)


def texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in tokens]


@pytest.mark.parametrize(
    ("context", "continuation", "scored", "is_merged"),
    [
        ("the cat", " sat", " sat", False),
        ("the cat ", "sat", " sat", False),  # a blank goes with the word behind it
        ("the cat\n", " sat", "\n sat", False),  # and a line's end, as lm_eval has it
        ("", "the cat", "the cat", False),
        ("the ca", "t sat", " cat sat", True),  # the token " cat" lies on both sides
        (" ", "cat", " cat", False),
        ("a", " ☕", " ☕", False),
    ],
)
def test_where_a_continuation_begins(
    tokenizer: Tokenizer, context: str, continuation: str, scored: str, is_merged: bool
) -> None:
    tokens, count, merged = encoded(Pair(context, continuation), tokenizer)
    assert tokens == tokenizer.encode(context + continuation).tolist()
    assert tokenizer.decode(tokens[-count:]) == scored
    assert merged == is_merged


@given(context=TEXT, continuation=TEXT)
@settings(max_examples=150, deadline=None)
def test_of_any_texts(tokenizer: Tokenizer, context: str, continuation: str) -> None:
    """The tokens are the joined text's; the first one scored is the first that reaches into the continuation."""
    pair = Pair(context, continuation)
    before, behind = boundary(pair)
    assert before + behind == context + continuation
    if not behind:
        with pytest.raises(UserError, match="A continuation must have at least one token"):
            encoded(pair, tokenizer)
        return
    tokens, count, is_merged = encoded(pair, tokenizer)
    assert tokens == tokenizer.encode(context + continuation).tolist()
    sizes = [len(tokenizer.token_bytes(token)) for token in tokens]
    limit = len(before.encode())
    assert sum(sizes[:-count]) <= limit < sum(sizes[: len(sizes) - count + 1])
    assert is_merged == (sum(sizes[:-count]) < limit)
    alone = tokenizer.encode(before).tolist()
    if tokens[: len(alone)] == alone:  # as lm_eval cuts, wherever nothing is joined across
        assert (tokens[: -count or None], is_merged) == (alone, False)


@given(context=TEXT, continuation=TEXT.filter(str.strip))
@settings(max_examples=100, deadline=None)
def test_of_pieces_too(pieces: Tokenizer, context: str, continuation: str) -> None:
    pair = Pair(context, continuation)
    tokens, count, is_merged = encoded(pair, pieces)
    alone = pieces.encode(boundary(pair)[0]).tolist()
    if tokens[: len(alone)] == alone:
        assert (len(tokens) - count, is_merged) == (len(alone), False)


class Lowering(Tokenizer):
    """A tokenizer that changes what it reads, as SentencePiece models made elsewhere may."""

    bpe_name, file_names, file_options = "lowering", (), ()

    def __init__(self) -> None:
        super().__init__([*"abc", "ab"], [b"a", b"b", b"c", b"ab"])

    def encode(self, text: str) -> Any:
        import numpy as np

        found = text.lower().replace("ab", "3")
        return np.array([4 + "abc3".index(letter) for letter in found], dtype=np.int64)

    def files(self) -> dict[str, bytes]:
        return {}


def test_of_a_tokenizer_that_changes_texts() -> None:
    """Tokens of the joined text that are the context's by itself are the context."""
    assert encoded(Pair("C", "B"), Lowering()) == ([6, 5], 1, False)
    assert encoded(Pair("CA", "BC"), Lowering()) == ([6, 7, 6], 2, True)


def test_what_is_too_long_is_cut_on_the_left(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("the cat sat on the mat").tolist()
    count = 2
    pair = Pair(tokenizer.decode(tokens[:-count]), tokenizer.decode(tokens[-count:]))
    whole = pair_row(pair, tokenizer, EOS, len(tokens))
    assert (whole.tokens, whole.num_scored, whole.ncut) == ([EOS, *tokens], count, 0)
    assert pair_row(pair, tokenizer, EOS, len(tokens) - 1).ncut == 1  # </s>
    short = pair_row(pair, tokenizer, EOS, 3)
    assert (short.tokens, short.num_scored, short.ncut) == (tokens[-4:], count, len(tokens) + 1 - 4)
    with pytest.raises(UserError, match="A continuation must have from 1 to 1 tokens"):
        pair_row(pair, tokenizer, EOS, 1)


def test_windows_by_hand() -> None:
    # The example of lm_eval's ``loglikelihood_rolling``.
    found = [(list(row.tokens), row.num_scored) for row in windows(range(10), 99, 4)]
    assert found == [([99, 0, 1, 2, 3], 4), ([3, 4, 5, 6, 7], 4), ([5, 6, 7, 8, 9], 2)]
    assert [(list(row.tokens), row.num_scored) for row in windows([7], 99, 4)] == [([99, 7], 1)]


@given(length=st.integers(1, 60), longest=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_windows_are_lm_evals(length: int, longest: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is not installed")
    tokens = list(range(100, 100 + length))
    theirs = utils.get_rolling_token_windows(tokens, EOS, longest, context_len=1)
    expected = [utils.make_disjoint_window(pair) for pair in theirs]
    found = [
        (list(row.tokens[: -row.num_scored]), list(row.tokens[-row.num_scored :]))
        for row in windows(tokens, EOS, longest)
    ]
    assert found == expected
    assert [token for _, scored in found for token in scored] == tokens
