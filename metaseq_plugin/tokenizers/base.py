"""What every tokenizer of ours can do, in ids of fairseq's dictionary (``dictionary`` draws them).

``decode(encode(text)) == text`` for any Unicode text; only lone surrogates, which are not Unicode
text, are refused. ``byte_level`` and ``sentencepiece`` have the two kinds; ``open`` is the door that
opens a folder with either.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Iterable, Optional, Sequence

import numpy as np

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.dictionary import (
    DICTIONARY_FILE,
    SPECIAL_SYMBOLS,
    make_dictionary,
    read_dictionary,
)

BOS, PAD, EOS, UNK = range(len(SPECIAL_SYMBOLS))
# What an id that stands for no text decodes to (<unk>, the padding symbols of the dictionary).
NO_TEXT = "\ufffd".encode()


class Tokenizer(ABC):
    """Text ↔ ids of fairseq's dictionary.

    A subclass sets up ``self`` through ``__init__(names, texts)``: the names of its own symbols in
    id order, and for each the bytes it decodes to (None: it stands for no text).
    """

    bpe_name: ClassVar[str]  # the choice of fairseq's --bpe
    file_names: ClassVar[tuple[str, ...]]  # what they are called in a data or model folder
    file_options: ClassVar[tuple[str, ...]]  # what names them on a command line

    def __init__(self, names: Sequence[str], texts: Sequence[Optional[bytes]]) -> None:
        self.dictionary = make_dictionary(names)
        self._bytes = [b"", b"", b"", NO_TEXT, *(NO_TEXT if t is None else t for t in texts)]
        self._bytes += [NO_TEXT] * (len(self) - len(self._bytes))

    def __len__(self) -> int:
        """Size of the dictionary, a multiple of 8."""
        return len(self.dictionary)

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids (int64, shape (T,)) of ``text``, with neither ``<s>`` nor ``</s>`` around them.

        Raises UserError for text with lone surrogates.
        """

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """``encode`` of each text, on this one core."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; ``<s>``, ``<pad>`` and ``</s>`` are nothing, bad UTF-8 is U+FFFD."""
        return b"".join(map(self._bytes.__getitem__, self._checked(ids))).decode("utf-8", "replace")

    def token_bytes(self, number: int) -> bytes:
        """What a token stands for; the bytes of one character may lie in several tokens."""
        return self._bytes[self._checked([number])[0]]

    def _checked(self, ids: Iterable[int]) -> list[int]:
        numbers, size = [int(number) for number in ids], len(self)
        for number in numbers:
            if not 0 <= number < size:
                raise UserError(
                    f"A token id must be between 0 and {size - 1}, but is {number}. "
                    "Decode with the tokenizer that the model was trained with."
                )
        return numbers

    def encode_symbols(self, text: str) -> str:
        """``text`` as dictionary symbols between single spaces, what fairseq's ``--bpe`` returns."""
        return " ".join(map(self.dictionary.symbols.__getitem__, self.encode(text).tolist()))

    def decode_symbols(self, symbols: str) -> str:
        """The text of dictionary symbols; a symbol that is not in the dictionary is ``<unk>``."""
        return self.decode([self.dictionary.index(symbol) for symbol in symbols.split()])

    def begins_word(self, symbol: str) -> bool:
        """Whether a word begins with this symbol (special symbols count as words)."""
        number = self.dictionary.index(symbol)
        return number < len(SPECIAL_SYMBOLS) or self._bytes[number][:1] == b" "

    def encodes_like(self, other: "Tokenizer") -> bool:
        """Whether ``other`` gives every text the same ids, as far as the files tell."""
        return type(self) is type(other) and self.dictionary == other.dictionary

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """File name → content of everything ``from_folder`` needs, ``dict.txt`` aside."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and ``dict.txt`` into ``folder``."""
        for name, content in self.files().items():
            (folder / name).write_bytes(content)
        self.dictionary.save(str(folder / DICTIONARY_FILE))

    def check_dict(self, path: Path) -> None:
        """Raise UserError unless ``path`` (a ``dict.txt``) lists exactly this tokenizer's symbols."""
        found = read_dictionary(path).symbols
        if found != self.dictionary.symbols:
            raise UserError(
                f"'{path}' must list the symbols of the tokenizer beside it, but differs "
                f"({len(found)} symbols, the tokenizer has {len(self)}). "
                "Put the files of one run together, or run `metaseq prepare` again."
            )


def check_unicode(text: str) -> None:
    """Raise UserError for text with lone surrogates, which no tokenizer could give back."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"Text must be Unicode without lone surrogates, but has U+{ord(text[error.start]):04X} "
            f"at character {error.start}. Remove it, or write a surrogate pair as one character."
        ) from error
