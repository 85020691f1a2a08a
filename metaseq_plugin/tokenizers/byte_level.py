"""OPT's GPT-2 byte-level BPE from ``vocab.json`` and ``merges.txt``, and the training of new ones.

GPT-2's BPE works on bytes: text is cut by a regular expression, each byte is spelled as one
printable character, and the merges of ``merges.txt`` join them in order. ``vocab.json`` gives the
id of each result; OPT's ids are not in merge order, so the steps of ``encode`` are:

(1) tiktoken splits and merges; its ids are merge ranks (256 bytes first, then line after line);
(2) one NumPy lookup turns ranks into the ids of ``vocab.json``.

tiktoken joins any two neighbours whose concatenation is a token, Hugging Face ``tokenizers`` only
pairs that ``merges.txt`` lists. Both give the same ids if and only if every token, encoded by the
listed pairs alone, becomes itself, and no two pairs make one token; that is checked when the files
are read. Files that fail it, and the rare text on which tiktoken's regular expression runs out of
stack (about a million spaces before a word), are encoded by ``tokenizers`` itself: several times
slower, same ids.
"""

import json
from pathlib import Path
from typing import Any, Iterable, Optional

import numpy as np
import tiktoken
from tokenizers import Tokenizer as ReferenceTokenizer
from tokenizers import models, pre_tokenizers, trainers

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import (
    SPECIAL_SYMBOLS,
    Tokenizer,
    check_unicode,
    read_tokenizer_file,
)

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
VOCAB_OPTION = "--opt-bpe-vocab"
MERGES_OPTION = "--opt-bpe-merges"
NUM_BYTES = 256
MIN_VOCAB_SIZE = len(SPECIAL_SYMBOLS) + NUM_BYTES
# GPT-2's split (openai/gpt-2, src/encoder.py) with possessive quantifiers, as tiktoken spells it:
# the same pieces without backtracking.
SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)  # fmt: skip
# A merge must have been seen twice, or rare names of a small corpus become tokens.
MIN_MERGE_COUNT = 2


def _byte_characters() -> list[str]:
    """GPT-2's spelling of the 256 byte values as printable characters."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters.update({byte: chr(NUM_BYTES + place) for place, byte in enumerate(others)})
    return [characters[byte] for byte in range(NUM_BYTES)]


BYTE_CHARACTERS = _byte_characters()
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def _spells_bytes(symbol: str) -> bool:
    return all(character in BYTE_OF for character in symbol)


def _spelled_bytes(symbol: str) -> bytes:
    return bytes(BYTE_OF[character] for character in symbol)


def parse_vocab(raw: bytes, path: Path) -> list[str]:
    """The symbols of a ``vocab.json`` in id order.

    Raises UserError unless it maps symbols to 0…n-1 with the four special ones at 0–3.
    """
    try:
        vocab = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"`{VOCAB_OPTION}` must be a JSON file, but '{path}' is not ({error}). "
            "Set it to the tokenizer's vocab.json."
        ) from error
    if not isinstance(vocab, dict) or not all(type(number) is int for number in vocab.values()):
        raise UserError(
            f"`{VOCAB_OPTION}` must map symbols to ids, but '{path}' does not. "
            "Set it to the tokenizer's vocab.json (not tokenizer.json)."
        )
    symbols = sorted(vocab, key=vocab.__getitem__)
    if [vocab[symbol] for symbol in symbols] != list(range(len(symbols))):
        raise UserError(
            f"`{VOCAB_OPTION}` must give each id from 0 on to one symbol, but '{path}' has gaps or "
            "doubles. Save it again from the tokenizer."
        )
    if tuple(symbols[: len(SPECIAL_SYMBOLS)]) != SPECIAL_SYMBOLS:
        raise UserError(
            f"`{VOCAB_OPTION}` must start with {', '.join(SPECIAL_SYMBOLS)} at ids 0 to 3, but "
            f"'{path}' starts with {', '.join(symbols[:4])}. Train it with these special tokens."
        )
    missing = [character for character in BYTE_CHARACTERS if character not in vocab]
    if missing:
        raise UserError(
            f"`{VOCAB_OPTION}` must hold a symbol for each of the 256 bytes, but '{path}' lacks "
            f"{len(missing)} of them ('{missing[0]}' first). Set it to a byte-level vocab.json."
        )
    return symbols


def parse_merges(raw: bytes, path: Path, symbols: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt`` in order; UserError where they do not fit ``symbols``."""
    known = set(symbols)
    merges = []
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"`{MERGES_OPTION}` must be UTF-8 text, but '{path}' is not (byte {error.start}). "
            "Set it to the tokenizer's merges.txt."
        ) from error
    for number, line in enumerate(lines, start=1):
        pair = line.rstrip("\r").split(" ")
        if line.startswith("#version") or pair == [""]:
            continue
        if len(pair) != 2 or not {pair[0], pair[1], "".join(pair)} <= known:
            raise UserError(
                f"`{MERGES_OPTION}` must hold pairs of symbols of the vocabulary, but line {number}"
                f" of '{path}' is {line[:80]!r}. Set vocab.json and merges.txt of one tokenizer."
            )
        merges.append((pair[0], pair[1]))
    return merges


def reference_tokenizer(symbols: list[str], merges: list[tuple[str, str]]) -> ReferenceTokenizer:
    """Hugging Face's own byte-level BPE; the definition of the right ids."""
    vocab = {symbol: number for number, symbol in enumerate(symbols)}
    reference = ReferenceTokenizer(models.BPE(vocab=vocab, merges=merges))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return reference


def _merges_are_unambiguous(symbols: list[str], merges: list[tuple[str, str]]) -> bool:
    """Whether joining by concatenation (tiktoken) gives the ids of joining by listed pairs.

    If it did not, take the first step where they differ on some text: tiktoken joins neighbours
    x, y to a token t by a pair that is not listed. No earlier join crossed the ends of t, so
    the joins inside were those that t alone would have seen; t alone then stops at x, y.
    """
    made = ["".join(pair) for pair in merges]
    if len(set(made)) < len(made):
        return False
    vocab = {symbol: number for number, symbol in enumerate(symbols)}
    whole = ReferenceTokenizer(models.BPE(vocab=vocab, merges=merges))
    # One by one: encode_batch starts threads, and processes with threads should not be forked.
    return all(len(whole.encode(symbol).ids) == 1 for symbol in made)


class ByteLevelBPE(Tokenizer):
    """OPT's tokenizer, or any of the same make; ids are those of its ``vocab.json``."""

    bpe_name = "opt_bpe"
    file_names = (VOCAB_FILE, MERGES_FILE)

    def __init__(self, vocab_path: Path, merges_path: Path) -> None:
        """Read the two files; raises UserError where they are unreadable or do not match."""
        self._vocab_json = read_tokenizer_file(vocab_path, VOCAB_OPTION)
        self._merges_txt = read_tokenizer_file(merges_path, MERGES_OPTION)
        symbols = parse_vocab(self._vocab_json, vocab_path)
        merges = parse_merges(self._merges_txt, merges_path, symbols)
        own = symbols[len(SPECIAL_SYMBOLS) :]
        # A symbol that spells no bytes was added by hand (say "<my token>"): it is its own text.
        texts = [_spelled_bytes(s) if _spells_bytes(s) else s.encode() for s in own]
        super().__init__(own, texts)
        self._reference = reference_tokenizer(symbols, merges)
        self._fast: Optional[tiktoken.Encoding] = None
        if _merges_are_unambiguous(symbols, merges):
            ranked = [*BYTE_CHARACTERS, *("".join(pair) for pair in merges)]
            id_of = {symbol: number for number, symbol in enumerate(symbols)}
            self._id_of_rank = np.array([id_of[symbol] for symbol in ranked], dtype=np.int64)
            self._fast = tiktoken.Encoding(
                self.bpe_name,
                pat_str=SPLIT,
                mergeable_ranks={_spelled_bytes(s): rank for rank, s in enumerate(ranked)},
                special_tokens={},
            )

    @property
    def is_fast(self) -> bool:
        """Whether tiktoken does the work (else Hugging Face ``tokenizers``, for the same ids)."""
        return self._fast is not None

    def encode(self, text: str) -> np.ndarray:
        if self._fast is None:
            return self.encode_reference(text)
        try:
            return self._id_of_rank[self._fast.encode_to_numpy(text)]
        except ValueError:  # lone surrogates, or its regular expression ran out of stack
            return self.encode_reference(text)

    def encode_reference(self, text: str) -> np.ndarray:
        """What Hugging Face ``tokenizers`` says; the same as ``encode``."""
        check_unicode(text)
        return np.array(self._reference.encode(text).ids, dtype=np.int64)

    def files(self) -> dict[str, bytes]:
        return {VOCAB_FILE: self._vocab_json, MERGES_FILE: self._merges_txt}


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> int:
    """Train on ``texts``, write ``vocab.json`` and ``merges.txt``; return the size reached.

    ``vocab_size`` counts the four special symbols and the 256 bytes; the size reached is smaller
    when the texts have too few pairs that occur twice.
    """
    tokenizer = ReferenceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    options: dict[str, Any] = dict(vocab_size=vocab_size, min_frequency=MIN_MERGE_COUNT)
    trainer = trainers.BpeTrainer(
        **options,
        special_tokens=list(SPECIAL_SYMBOLS),
        initial_alphabet=sorted(BYTE_CHARACTERS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model.save(str(folder))
    return tokenizer.get_vocab_size()
