"""fairseq's dictionary in every way that one is come by: made of names, numbered, or loaded.

Ids: 0 ``<s>``, 1 ``<pad>``, 2 ``</s>``, 3 ``<unk>`` (fairseq puts these four first by itself, and OPT's
``vocab.json`` has them at the same places), then the tokenizer's own symbols, then symbols that nothing
produces, up to a multiple of 8 (OPT: 50,265 → 50,272) because matrix products want such widths.

``Dictionary.save`` writes ``dict.txt``, with the count 0 for the symbols that only pad; counts mean
nothing here.
"""

import io
from pathlib import Path
from typing import Iterable, Union

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import best_fitting_int_dtype

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.tokenizer_file import MAX_SYMBOLS, TokenizerFile

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
DICTIONARY_MULTIPLE = 8
DICTIONARY_FILE = "dict.txt"


def make_dictionary(names: Iterable[str]) -> Dictionary:
    """The dictionary in which the symbols from id 4 on stand for ``names``.

    fairseq splits symbols at white space and refuses doubles, so a name that has white space, is
    empty or is taken gets another one.
    """
    dictionary = Dictionary()
    for name in names:
        symbol = name if name.split() == [name] else f"<symbol{len(dictionary)}>"
        while symbol in dictionary:
            symbol = f"<{symbol}>"
        dictionary.add_symbol(symbol)
    dictionary.pad_to_multiple_(DICTIONARY_MULTIPLE)
    return dictionary


def numbered_dictionary(num_types: int) -> Dictionary:
    """A dictionary of exactly ``num_types``, where no tokenizer names them: each symbol is its id.

    Raises UserError for more types than any vocabulary has.
    """
    if num_types > MAX_SYMBOLS:
        raise UserError(
            f"A model's vocabulary must have at most {MAX_SYMBOLS:,} types, but has {num_types:,}. "
            "Use a complete, unmodified checkpoint."
        )
    dictionary = Dictionary()
    for number in range(len(dictionary), num_types):
        dictionary.add_symbol(str(number))
    return dictionary


def load_dictionary(folder: Union[str, Path]) -> Dictionary:
    """The dictionary of a data folder, padded as OPT's is.

    Raises UserError where it has none, or a damaged one.
    """
    path = Path(folder) / DICTIONARY_FILE
    if not path.is_file():
        raise UserError(
            f"`DATA` must hold {DICTIONARY_FILE}, but {folder} does not. Make it with `metaseq prepare`."
        )
    dictionary = read_dictionary(path)
    dictionary.pad_to_multiple_(DICTIONARY_MULTIPLE)
    return dictionary


def read_dictionary(path: Path) -> Dictionary:
    """The dictionary in a ``dict.txt``, a symbol and its count on each line, as fairseq reads it.

    Raises UserError where fairseq could not, or where it has more symbols than any vocabulary.
    """
    file = TokenizerFile(path)
    raw = file.read()
    file.check_num_symbols(raw.count(b"\n") + raw.count(b"\r"))
    lines = io.StringIO(file.text(raw), newline=None)
    dictionary = Dictionary()
    try:
        dictionary.add_from_file(lines)
    except (ValueError, RuntimeError) as error:  # no symbol and count; a symbol twice
        raise UserError(
            f"'{path}' must hold a symbol and its count on each line, but does not ({error!s:.200}). "
            "Copy it again from the folder that the model was trained with."
        ) from error
    return dictionary


def check_dictionary_size(num_types: int, vocab_size: int, folder: Path) -> None:
    """Refuse a dictionary that is not the model's."""
    if num_types != vocab_size:
        raise UserError(
            f"{DICTIONARY_FILE} must give the model's {vocab_size:,} types, but in {folder} it gives "
            f"{num_types:,}. Set --data to the folder that the model was trained with."
        )


def token_dtype(num_types: int) -> np.dtype:
    """The narrowest type that fairseq stores token ids of such a dictionary in."""
    return np.dtype(best_fitting_int_dtype(num_types))
