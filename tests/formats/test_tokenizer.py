"""A folder's tokenizer for each side: one dictionary by every door, and nothing lost there and back."""

import json
import tempfile
from pathlib import Path

import pytest
from fairseq.data import Dictionary
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tokenizer import fairseq_tokenizer, hf_tokenizer, metaseq_tokenizer
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE, load_dictionary
from metaseq_plugin.tokenizers.files import (
    BYTE_CHARACTERS,
    complete_vocab,
    read_byte_pairs,
    write_byte_pairs,
)
from metaseq_plugin.tokenizers.open import from_folder
from tests.formats.folders import SPECIALS, VOCAB_SIZE, run_convert, write_hf, write_tokenizer

AWKWARD = ["a b", "<symbol4>", "<symbol260>", "", "madeupword0000", "\u3000", "<<symbol260>>"]
names = st.lists(
    st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(codec="utf-8"), max_size=4)),
    max_size=12,
    unique=True,
)


def write_source(folder: Path, added: list[str]) -> int:
    """A Hugging Face folder's tokenizer without merges and with those names; the model's vocabulary."""
    tokens = list(dict.fromkeys([*SPECIALS, *BYTE_CHARACTERS, *added]))
    folder.mkdir()
    write_byte_pairs(folder, {token: number for number, token in enumerate(tokens)}, [])
    return -(-len(tokens) // DICTIONARY_MULTIPLE) * DICTIONARY_MULTIPLE


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None)
@example(added=AWKWARD)
@example(added=AWKWARD[::-1])
@given(added=names)
def test_every_door_writes_one_dictionary(added: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made, ours, hf, theirs, back = (
            root / name for name in ("made", "ours", "hf", "theirs", "back")
        )
        for folder in (made, ours, hf, theirs, back):
            folder.mkdir()
        vocab_size = write_source(root / "src", added)
        vocab = json.loads((root / "src" / "vocab.json").read_bytes())
        tokenizer = from_folder(root / "src")
        tokenizer.save(made)  # as `metaseq prepare` does
        fairseq_tokenizer(root / "src", ours, vocab_size)  # as `metaseq convert` does
        expected = (made / "dict.txt").read_bytes()
        assert (ours / "dict.txt").read_bytes() == expected
        loaded = Dictionary.load(str(ours / "dict.txt"))
        assert loaded.symbols == tokenizer.dictionary.symbols
        assert len(loaded) == vocab_size
        ids = load_dictionary(ours).indices
        hf_tokenizer(ours, hf, ids, 40)
        assert json.loads((hf / "vocab.json").read_bytes()) == vocab
        metaseq_tokenizer(ours, theirs, vocab_size, ids)
        for source in (hf, theirs):
            fairseq_tokenizer(source, back, vocab_size)
            assert (back / "dict.txt").read_bytes() == expected
            assert json.loads((back / "vocab.json").read_bytes()) == vocab
        assert from_folder(back).dictionary == tokenizer.dictionary


@pytest.mark.slow
def test_convert_there_and_back_keeps_awkward_names(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", tokenizer=False)
    assert write_source(tmp_path / "files", [*AWKWARD, "\u0120x", "\u0120y"]) < VOCAB_SIZE
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "files" / name).rename(tmp_path / "hf" / name)
    run_convert(tmp_path / "hf", tmp_path / "ours", "--to", "fairseq")
    for form in ("hf", "metaseq"):
        run_convert(tmp_path / "ours", tmp_path / f"as-{form}", "--to", form)
        run_convert(tmp_path / f"as-{form}", tmp_path / f"from-{form}", "--to", "fairseq")
        for name in ("dict.txt", "vocab.json", "merges.txt"):
            after = (tmp_path / f"from-{form}" / name).read_bytes()
            assert after == (tmp_path / "ours" / name).read_bytes()


def test_every_form_is_read_alike(tmp_path: Path) -> None:
    reference = write_tokenizer(tmp_path / "plain")
    reference.add_tokens(["<mine>"])
    (tmp_path / "plain" / "added_tokens.json").write_text('{"<mine>": 283, "<s>": 0}')
    (tmp_path / "whole").mkdir()
    reference.save(str(tmp_path / "whole" / "tokenizer.json"))
    plain, whole = (read_byte_pairs(tmp_path / name) for name in ("plain", "whole"))
    assert plain is not None
    assert whole is not None
    assert plain[:2] == whole[:2]
    assert complete_vocab(plain, VOCAB_SIZE) == complete_vocab(whole, VOCAB_SIZE)
    assert complete_vocab(plain, VOCAB_SIZE) == {**plain.vocab, "<mine>": 283}
    (tmp_path / "theirs").mkdir()
    names = ("gpt2-vocab.json", "gpt2-merges.txt")
    write_byte_pairs(tmp_path / "theirs", plain.vocab, plain.merges, names)
    assert read_byte_pairs(tmp_path / "theirs") == plain._replace(added={})
    assert read_byte_pairs(tmp_path) is None


# file -> (its content, what the sentence says of it)
BAD = {
    "vocab.json": (b"{", r"vocab.json' must be a JSON file, but it is not"),
    "merges.txt": (b"zq qz\n", r"merges.txt' must hold pairs .* but line 1 of it is 'zq qz'"),
    "added_tokens.json": (b"[]", r"added_tokens.json' must map symbols to ids, but it does not"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_a_folder_is_named_by_its_path(tmp_path: Path, name: str) -> None:
    content, sentence = BAD[name]
    write_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_byte_pairs(tmp_path)
    if name != "added_tokens.json":
        with pytest.raises(UserError, match=sentence):
            from_folder(tmp_path)


def test_a_bad_merge_of_tokenizer_json_is_named(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "files").save(str(tmp_path / "tokenizer.json"))
    content = json.loads((tmp_path / "tokenizer.json").read_bytes())
    content["model"]["merges"][2] = ["zq", "qz"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer.json' must hold .* merge 3 of it is 'zq qz'"):
        read_byte_pairs(tmp_path)
    content["pre_tokenizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert read_byte_pairs(tmp_path) is None  # of another kind
