"""What every tokenizer of ours can do, in ids of fairseq's dictionary.

Dictionary ids: 0 ``<s>``, 1 ``<pad>``, 2 ``</s>``, 3 ``<unk>`` (fairseq puts these four first by
itself, and OPT's ``vocab.json`` has them at the same places), then the tokenizer's own symbols, then
symbols that nothing produces, up to a multiple of 8 (OPT: 50,265 → 50,272) because matrix products
want such widths. ``write_dict`` writes the ``dict.txt`` from which
``fairseq.data.Dictionary.load`` makes exactly these ids and this length.

``decode(encode(text)) == text`` for any Unicode text; only lone surrogates, which are not Unicode
text, are refused. ``byte_level_bpe`` and ``sentence_pieces`` are the two kinds; ``tokenizers`` is
the door that opens a folder with either.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Iterable, Optional, Sequence

import numpy as np

from metaseq_plugin.compat.errors import UserError

BOS, PAD, EOS, UNK = range(4)
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
DICTIONARY_MULTIPLE = 8
DICTIONARY_FILE = "dict.txt"
# What an id that stands for no text decodes to (<unk>, the padding symbols of the dictionary).
NO_TEXT = "\ufffd".encode()


def dictionary_symbols(names: Sequence[str]) -> list[str]:
    """The dictionary's symbols from id 4 on, padding included, for a tokenizer's ``names`` of them.

    fairseq splits symbols at white space and refuses doubles, so a name that has white space, is
    empty or is taken gets another one. The padding is spelled as fairseq's own
    ``Dictionary.pad_to_multiple_`` spells it.
    """
    taken = set(SPECIAL_SYMBOLS)
    symbols = []
    for number, name in enumerate(names, start=len(SPECIAL_SYMBOLS)):
        symbol = name if len(name.split()) == 1 and name == name.strip() else f"<symbol{number}>"
        while symbol in taken:
            symbol = f"<{symbol}>"
        taken.add(symbol)
        symbols.append(symbol)
    made_up = 0
    while (len(SPECIAL_SYMBOLS) + len(symbols)) % DICTIONARY_MULTIPLE:
        symbol = f"madeupword{made_up:04d}"
        made_up += 1
        if symbol not in taken:
            symbols.append(symbol)
    return symbols


def read_tokenizer_file(path: Path, option: str) -> bytes:
    """The content of a tokenizer file; ``option`` is the one that named it, for the error."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"`{option}` must be a readable file, but is '{path}' ({error.strerror}). "
            "Set it to the path of the tokenizer's file."
        ) from error


class Tokenizer(ABC):
    """Text ↔ ids of fairseq's dictionary.

    A subclass sets up ``self`` through ``__init__(names, texts)``: the names of its own symbols in
    id order, and for each the bytes it decodes to (None: it stands for no text).
    """

    bpe_name: ClassVar[str]  # the choice of fairseq's --bpe
    file_names: ClassVar[tuple[str, ...]]  # what it is called in a data or model folder

    def __init__(self, names: Sequence[str], texts: Sequence[Optional[bytes]]) -> None:
        own = dictionary_symbols(names)
        self.num_own_symbols = len(SPECIAL_SYMBOLS) + len(names)  # without the padding
        self._symbols = [*SPECIAL_SYMBOLS, *own]
        self._ids = {symbol: number for number, symbol in enumerate(self._symbols)}
        self._bytes = [b"", b"", b"", NO_TEXT, *(NO_TEXT if t is None else t for t in texts)]
        self._bytes += [NO_TEXT] * (len(self._symbols) - len(self._bytes))

    def __len__(self) -> int:
        """Size of the dictionary, a multiple of 8."""
        return len(self._symbols)

    def symbols(self) -> list[str]:
        """Every symbol of the dictionary in id order, the four special ones first."""
        return list(self._symbols)

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

    def _checked(self, ids: Iterable[int]) -> list[int]:
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < len(self):
                raise UserError(
                    f"A token id must be between 0 and {len(self) - 1}, but is {number}. "
                    "Decode with the tokenizer that the model was trained with."
                )
        return numbers

    def encode_symbols(self, text: str) -> str:
        """``text`` as dictionary symbols between single spaces, what fairseq's ``--bpe`` returns."""
        return " ".join(map(self._symbols.__getitem__, self.encode(text).tolist()))

    def decode_symbols(self, symbols: str) -> str:
        """The text of dictionary symbols; a symbol that is not in the dictionary is ``<unk>``."""
        return self.decode([self._ids.get(symbol, UNK) for symbol in symbols.split()])

    def begins_word(self, symbol: str) -> bool:
        """Whether a word begins with this symbol (special symbols count as words)."""
        number = self._ids.get(symbol, UNK)
        return number < len(SPECIAL_SYMBOLS) or self._bytes[number][:1] == b" "

    def write_dict(self, path: Path) -> None:
        """Write ``dict.txt``; the padding symbols carry count 0 as in fairseq's own dictionaries."""
        own = self._symbols[len(SPECIAL_SYMBOLS) :]
        num_padding = len(self) - self.num_own_symbols
        counts = [1] * (len(own) - num_padding) + [0] * num_padding
        lines = [f"{symbol} {count}\n" for symbol, count in zip(own, counts, strict=True)]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """File name → content of everything ``from_folder`` needs, ``dict.txt`` aside."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and ``dict.txt`` into ``folder``."""
        for name, content in self.files().items():
            (folder / name).write_bytes(content)
        self.write_dict(folder / DICTIONARY_FILE)

    def check_dict(self, path: Path) -> None:
        """Raise UserError unless ``path`` (a ``dict.txt``) lists exactly this tokenizer's symbols."""
        lines = path.read_text(encoding="utf-8").split("\n")
        found = [line.rsplit(" ", 1)[0] for line in lines if line]
        if found != self._symbols[len(SPECIAL_SYMBOLS) :]:
            raise UserError(
                f"'{path}' must list the symbols of the tokenizer beside it, but differs "
                f"({len(found) + len(SPECIAL_SYMBOLS)} symbols, the tokenizer has {len(self)}). "
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
