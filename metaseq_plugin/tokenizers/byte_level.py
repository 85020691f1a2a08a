"""OPT's GPT-2 byte-level BPE from ``vocab.json`` and ``merges.txt``.

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

from typing import Optional

import numpy as np
import tiktoken
from tokenizers import Tokenizer as ReferenceTokenizer
from tokenizers import models, pre_tokenizers

from metaseq_plugin.tokenizers.base import Tokenizer, check_unicode
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS
from metaseq_plugin.tokenizers.files import (
    BYTE_CHARACTERS,
    MERGES_FILE,
    VOCAB_FILE,
    parse_merges,
    parse_vocab,
)
from metaseq_plugin.tokenizers.tokenizer_file import TokenizerFile

VOCAB_OPTION = "--opt-bpe-vocab"
MERGES_OPTION = "--opt-bpe-merges"
# GPT-2's split (openai/gpt-2, src/encoder.py) with possessive quantifiers, as tiktoken spells it:
# the same pieces without backtracking.
SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)  # fmt: skip
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def _spelled_bytes(symbol: str) -> bytes:
    return bytes(BYTE_OF[character] for character in symbol)


def _merges_are_unambiguous(vocab: dict[str, int], merges: list[tuple[str, str]]) -> bool:
    """Whether joining by concatenation (tiktoken) gives the ids of joining by listed pairs.

    tiktoken joins bytes only: a pair of symbols that spell none is left to ``tokenizers`` too.

    If it did not, take the first step where they differ on some text: tiktoken joins neighbours
    x, y to a token t by a pair that is not listed. No earlier join crossed the ends of t, so
    the joins inside were those that t alone would have seen; t alone then stops at x, y.
    """
    made = list(map("".join, merges))
    if len(set(made)) < len(made):
        return False
    if not all(BYTE_OF.keys() >= set(symbol) for symbol in made):
        return False
    model = models.BPE(vocab=vocab, merges=merges)  # of its own: it remembers what it was asked
    return all(len(model.tokenize(symbol)) == 1 for symbol in made)


class ByteLevelBPE(Tokenizer):
    """OPT's tokenizer, or any of the same make; ids are those of its ``vocab.json``."""

    bpe_name = "opt_bpe"
    file_names = (VOCAB_FILE, MERGES_FILE)
    file_options = (VOCAB_OPTION, MERGES_OPTION)

    def __init__(self, vocab_file: TokenizerFile, merges_file: TokenizerFile) -> None:
        """Read the two files; raises UserError where they are unreadable or do not match."""
        self._vocab_json, self._merges_txt = vocab_file.read(), merges_file.read()
        vocab = parse_vocab(self._vocab_json, vocab_file)
        merges = parse_merges(self._merges_txt, merges_file, vocab)
        self._merges = merges
        own = list(vocab)[len(SPECIAL_SYMBOLS) :]
        # A symbol that spells no bytes was added by hand (say "<my token>"): it is its own text.
        texts = [_spelled_bytes(s) if BYTE_OF.keys() >= set(s) else s.encode() for s in own]
        super().__init__(own, texts)
        # The definition of the right ids.
        self._reference = ReferenceTokenizer(models.BPE(vocab=vocab, merges=merges))
        self._reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._fast: Optional[tiktoken.Encoding] = None
        if _merges_are_unambiguous(vocab, merges):
            ranked = [*BYTE_CHARACTERS, *map("".join, merges)]
            self._id_of_rank = np.array([vocab[symbol] for symbol in ranked], dtype=np.int64)
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

    def encodes_like(self, other: Tokenizer) -> bool:
        return (
            isinstance(other, ByteLevelBPE)
            and super().encodes_like(other)
            and self._merges == other._merges
        )

    def files(self) -> dict[str, bytes]:
        return {VOCAB_FILE: self._vocab_json, MERGES_FILE: self._merges_txt}
