"""fairseq's dictionary: one rule for symbols, and what fairseq itself loads of what we write."""

from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import best_fitting_int_dtype

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.dictionary import (
    DICTIONARY_MULTIPLE,
    SPECIAL_SYMBOLS,
    check_dictionary_size,
    load_dictionary,
    make_dictionary,
    numbered_dictionary,
    token_dtype,
)


def test_padding_is_spelled_as_fairseqs() -> None:
    names = ["a", "madeupword0000", "madeupword0002"]
    dictionary = Dictionary()
    for name in names:
        dictionary.add_symbol(name)
    dictionary.pad_to_multiple_(DICTIONARY_MULTIPLE)
    assert make_dictionary(names).symbols == dictionary.symbols
    assert dictionary.symbols[:4] == list(SPECIAL_SYMBOLS)


def test_symbols_that_fairseq_cannot_carry_are_renamed(tmp_path: Path) -> None:
    names = ["a b", "\u3000", "", "</s>", "x", "<symbol4>", "x"]
    dictionary = make_dictionary(names)
    assert dictionary.symbols[4:11] == [
        "<symbol4>", "<symbol5>", "<symbol6>", "<</s>>", "x", "<<symbol4>>", "<x>"
    ]  # fmt: skip
    dictionary.save(str(tmp_path / "dict.txt"))
    assert Dictionary.load(str(tmp_path / "dict.txt")).symbols == dictionary.symbols


def test_numbers_are_their_own_ids() -> None:
    dictionary = numbered_dictionary(90)
    assert len(dictionary) == 90
    assert all(dictionary.index(str(number)) == number for number in range(4, 90))


def test_a_folder_without_dictionary_and_another_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`DATA` must hold dict\.txt, but .* does not"):
        load_dictionary(tmp_path)
    (tmp_path / "dict.txt").write_text("a 1\n")
    assert len(load_dictionary(tmp_path)) == 8
    with pytest.raises(UserError, match=r"must give the model's 1,000 types, but in .* gives 8"):
        check_dictionary_size(8, 1_000, tmp_path)


class Named(Tokenizer):
    """Has names, and encodes nothing."""

    bpe_name, file_names = "named", ()

    def __init__(self, names: list[str]) -> None:
        super().__init__(names, [None] * len(names))

    def encode(self, text: str) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)

    def files(self) -> dict[str, bytes]:
        return {}


@pytest.mark.parametrize("count", [0, 1])
def test_a_dictionary_is_accepted_whatever_its_counts_say(tmp_path: Path, count: int) -> None:
    tokenizer = Named(["a b", "<symbol4>", "x"])
    tokenizer.save(tmp_path)
    lines = (tmp_path / "dict.txt").read_text().splitlines()
    assert lines == ["<symbol4> 1", "<<symbol4>> 1", "x 1", "madeupword0000 0"]
    counted = "".join(f"{line.split()[0]} {count}\n" for line in lines)
    (tmp_path / "dict.txt").write_text(counted)
    tokenizer.check_dict(tmp_path / "dict.txt")
    assert load_dictionary(tmp_path) == tokenizer.dictionary


def test_tokens_are_stored_as_fairseq_stores_them() -> None:
    for num_types in (1_000, 65_499, 65_500, 100_000):
        assert token_dtype(num_types) == np.dtype(best_fitting_int_dtype(num_types))
