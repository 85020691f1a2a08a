"""Tokenizers: ids equal to Hugging Face's, nothing lost on the way back, fairseq's dictionary in between."""

import json
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import sentencepiece
from fairseq.data import Dictionary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.byte_level import ByteLevelBPE
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE
from metaseq_plugin.tokenizers.fairseq_bpe import (
    OptBPE,
    OptBPEConfig,
    OptSentencePiece,
    OptSentencePieceConfig,
)
from metaseq_plugin.tokenizers.open import BPE_NAMES, from_folder, from_options
from metaseq_plugin.tokenizers.sentencepiece import SentencePiece
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces
from tests.data.trained import real_texts

SIZE = 1_001  # no multiple of 8, so that the dictionary is padded
AWKWARD = [
    "",
    " ",
    "  leading,  double and trailing  ",
    "a\r\nb\rc\n\n\n",
    "\x00\x01\x1b\x7f\x85\u2028\u2029\ufeff\ufffd",
    "e\u0301 \u00e9 \ufb01 \u2460 \uff21 \u3000\u00a0\u200b",
    "\u2581 \u2581\u2581a\u2581",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0010ffff",
    "<s> </s> <pad> <unk> <mask> <|endoftext|> madeupword0000 <0x0A> \u0120the",
    "I'll you're they'VE 'S don't can''t",
    "def f(x):\n\treturn x  # \u043f\u0440\u0438\u0432\u0435\u0442 \u4e16\u754c \u0645\u0631\u062d\u0628\u0627\n",
    "\u0000",
    "a" * 5_000 + " " * 5_000 + "-" * 5_000,
]
# Characters that meet rules of the split and of the models, next to any others.
texts = st.text(
    st.one_of(st.sampled_from(" \n\t\r'<>/s0a\u2581\u00a0\x00\u0301"), st.characters(codec="utf-8"))
)


def byte_level_bpe(vocab: str, merges: str) -> ByteLevelBPE:
    tokenizer = from_options("opt_bpe", vocab, merges)
    assert isinstance(tokenizer, ByteLevelBPE)
    return tokenizer


def sentence_piece(model: str) -> SentencePiece:
    tokenizer = from_options("opt_sentencepiece", model)
    assert isinstance(tokenizer, SentencePiece)
    return tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained tokenizer of each kind with its dict.txt, by the name of its --bpe choice."""
    made = {name: tmp_path_factory.mktemp(name) for name in BPE_NAMES}
    assert train_byte_level_bpe(real_texts(), SIZE, made["opt_bpe"]) == SIZE
    assert train_sentence_pieces(real_texts(), SIZE, made["opt_sentencepiece"], True) == SIZE
    for folder in made.values():
        from_folder(folder).save(folder)
    return made


@pytest.fixture(scope="session", params=BPE_NAMES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return from_folder(folder)


@pytest.fixture(scope="session")
def byte_level(folders: dict[str, Path]) -> ByteLevelBPE:
    tokenizer = from_folder(folders["opt_bpe"])
    assert isinstance(tokenizer, ByteLevelBPE)
    return tokenizer


@pytest.fixture(scope="session")
def reference(folders: dict[str, Path]) -> ByteLevelBPETokenizer:
    """Hugging Face's own class for such files, from the same files."""
    return ByteLevelBPETokenizer(
        *(str(folders["opt_bpe"] / name) for name in ByteLevelBPE.file_names)
    )


@pytest.fixture(scope="session")
def opt(shared_file: Callable[[str], Path]) -> ByteLevelBPE:
    files = [str(shared_file(f"assets/gpt2-{name}")) for name in ByteLevelBPE.file_names]
    return byte_level_bpe(*files)


def through_fairseq(bpe: object, dictionary: Dictionary, text: str) -> tuple[list[int], str]:
    """What ``fairseq-interactive`` does with a line: its ids without the end, and the text back."""
    ids = dictionary.encode_line(bpe.encode(text), add_if_not_exist=False)  # type: ignore[attr-defined]
    return ids.tolist()[:-1], bpe.decode(dictionary.string(ids))  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=400, derandomize=True, deadline=None)
@given(text=texts)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int64
    assert 3 not in ids


def test_every_character_comes_back(tokenizer: Tokenizer) -> None:
    scalars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(scalars), 512):
        text = "a".join(scalars[start : start + 512])
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=600, derandomize=True, deadline=None)
@given(text=texts)
def test_ids_are_hugging_faces(
    byte_level: ByteLevelBPE, reference: ByteLevelBPETokenizer, text: str
) -> None:
    assert byte_level.is_fast
    assert byte_level.encode(text).tolist() == reference.encode(text).ids


def test_ids_of_real_text_are_hugging_faces(byte_level: ByteLevelBPE) -> None:
    for text in [*real_texts(), *AWKWARD]:
        assert byte_level.encode(text).tolist() == byte_level.encode_reference(text).tolist()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(text=texts)
def test_opts_ids_are_hugging_faces(opt: ByteLevelBPE, text: str) -> None:
    assert opt.encode(text).tolist() == opt.encode_reference(text).tolist()
    assert opt.decode(opt.encode(text)) == text


def test_opts_dictionary(opt: ByteLevelBPE, tmp_path: Path) -> None:
    assert opt.is_fast
    assert opt.encode("Hello world").tolist() == [31414, 232]
    assert opt.decode([2, 31414, 232]) == "Hello world"
    opt.dictionary.save(str(tmp_path / "dict.txt"))
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert len(dictionary) == 50_272
    vocab = json.loads(opt.files()["vocab.json"])
    assert all(dictionary.index(symbol) == number for symbol, number in vocab.items())


def test_text_on_which_the_regular_expression_fails(byte_level: ByteLevelBPE) -> None:
    text = " " * 1_000_000 + "x"
    assert byte_level.encode(text).tolist() == byte_level.encode_reference(text).tolist()
    assert byte_level.decode(byte_level.encode(text)) == text


def test_ambiguous_merges_are_encoded_by_the_reference(
    byte_level: ByteLevelBPE, tmp_path: Path
) -> None:
    # "abc" is listed as ab+c, but bc comes first: the listed pairs never make it, tiktoken would.
    symbols = [*byte_level.dictionary.symbols[: 4 + 256], "bc", "ab", "abc"]
    vocab = {symbol: number for number, symbol in enumerate(symbols)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb c\na b\nab c\n")
    tokenizer = byte_level_bpe(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert not tokenizer.is_fast
    assert [tokenizer.dictionary.symbols[n] for n in tokenizer.encode("abc")] == ["a", "bc"]


def test_dictionary_is_fairseqs(tokenizer: Tokenizer, folder: Path) -> None:
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    assert dictionary.symbols == tokenizer.dictionary.symbols
    assert len(dictionary) == len(tokenizer) == -(-SIZE // 8) * 8
    dictionary.pad_to_multiple_(DICTIONARY_MULTIPLE)  # changes nothing
    assert len(dictionary) == len(tokenizer)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_back_through_fairseq(folders: dict[str, Path], text: str) -> None:
    folder = folders["opt_bpe"]
    config = OptBPEConfig(
        opt_bpe_vocab=str(folder / "vocab.json"), opt_bpe_merges=str(folder / "merges.txt")
    )
    spm = folders["opt_sentencepiece"]
    model = OptSentencePieceConfig(opt_sentencepiece_model=str(spm / "sentencepiece.model"))
    for bpe, place in ((OptBPE(config), folder), (OptSentencePiece(model), spm)):
        dictionary = Dictionary.load(str(place / "dict.txt"))
        ids, back = through_fairseq(bpe, dictionary, text)
        assert back == text
        assert ids == from_folder(place).encode(text).tolist()


def test_words_begin_at_spaces(tokenizer: Tokenizer) -> None:
    symbols = tokenizer.encode_symbols("of the self").split()
    assert tokenizer.begins_word(symbols[-1])
    assert tokenizer.begins_word("</s>")
    assert not tokenizer.begins_word(tokenizer.encode_symbols("x").split()[0])


def test_ids_without_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab").tolist()
    assert tokenizer.decode([2, 0, *ids, 2, 1, 1]) == "ab"
    assert tokenizer.decode([3, len(tokenizer) - 1]) == "\ufffd\ufffd"
    assert tokenizer.decode_symbols("nonsense-symbol") == "\ufffd"
    with pytest.raises(UserError, match=f"between 0 and {len(tokenizer) - 1}, but is 99999"):
        tokenizer.decode([99_999])


def test_batches(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch(AWKWARD)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(t).tolist() for t in AWKWARD]


@pytest.mark.parametrize("text", ["\ud800", "fine \udfff fine", "\u2581\ud83d"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(UserError, match=r"without lone surrogates, but has U\+D"):
        tokenizer.encode(text)


def test_training_twice_gives_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    train_byte_level_bpe(real_texts(), SIZE, tmp_path)
    train_sentence_pieces(real_texts(), SIZE, tmp_path, True)
    for folder in folders.values():
        for name in from_folder(folder).files():
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_trained_elsewhere_decodes_as_it_does(tmp_path: Path) -> None:
    path = tmp_path / "sentencepiece.model"
    with path.open("wb") as model:  # SentencePiece's own defaults: nmt_nfkc, a space in front
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(real_texts()[0].split("\n")),
            model_writer=model,
            vocab_size=500,
            minloglevel=2,
        )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = sentence_piece(str(path))
    assert not ours.is_exact
    for text in ("  the \ufb01rst  value ", "parser.add_argument", "\u4e16"):
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
        names = [theirs.id_to_piece(n) for n in theirs.encode(text)]
        assert ours.encode_symbols(text).split() == names


def test_a_folder_must_hold_one_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        from_folder(tmp_path)
    for folder in folders.values():
        for name, content in from_folder(folder).files().items():
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="holds both"):
        from_folder(tmp_path)


def test_a_dictionary_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    from_folder(folder).save(tmp_path)
    (tmp_path / "dict.txt").write_text("a 1\nb 1\n")
    with pytest.raises(UserError, match=r"dict.txt' must list the symbols of the tokenizer"):
        from_folder(tmp_path)


# name -> (vocab.json, merges.txt, what the sentence says); None: the good file
BAD_FILES = {
    "vocab is no JSON": (b"{", None, "`--opt-bpe-vocab` must be a JSON file"),
    "vocab is a list": (b"[]", None, "`--opt-bpe-vocab` must map symbols to ids"),
    "vocab has text for ids": (b'{"a": "1"}', None, "`--opt-bpe-vocab` must map symbols to ids"),
    "vocab has gaps": (b'{"<s>": 0, "a": 7}', None, "has gaps or doubles"),
    "vocab lacks the special four": (b'{"a": 0}', None, "must start with <s>, <pad>, </s>, <unk>"),
    "vocab lacks bytes": (
        b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}',
        None,
        "a symbol for each of the 256 bytes",
    ),
    "merges of another vocabulary": (None, b"i n\nzq qz\n", "line 2 of .* is 'zq qz'"),
    "merges with three parts": (None, b"a b c\n", "must hold pairs"),
    "merges are binary": (None, b"\xff\xfe", "must be UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_vocabulary_files(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    vocab, merges, sentence = BAD_FILES[name]
    for file, content in (("vocab.json", vocab), ("merges.txt", merges)):
        good = (folders["opt_bpe"] / file).read_bytes()
        (tmp_path / file).write_bytes(good if content is None else content)
    with pytest.raises(UserError, match=sentence):
        byte_level_bpe(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))


def test_missing_or_wrong_tokenizer_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`--opt-bpe-vocab` must be set .* but is not"):
        OptBPE(OptBPEConfig())
    with pytest.raises(UserError, match=r"`--opt-sentencepiece-model` must be set"):
        OptSentencePiece(OptSentencePieceConfig())
    with pytest.raises(UserError, match=r"must be a readable file, but is '.*no.json'"):
        byte_level_bpe(str(tmp_path / "no.json"), str(tmp_path / "no.txt"))
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(UserError, match="must be a SentencePiece model"):
        sentence_piece(str(tmp_path / "text.model"))
