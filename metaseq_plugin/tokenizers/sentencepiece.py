"""SentencePiece models as fairseq tokenizers, and the training of models that lose nothing.

A model that we train copies every character: no normalisation, no added or removed spaces, bytes
for characters it does not know. One character remains that SentencePiece itself cannot carry,
U+2581, which it uses for the space; ``encode`` writes that one as its three bytes. So text → ids →
text is exact.

A model trained elsewhere is used as it is: where its own settings change the text (say NFKC, or a
space in front), decoding gives the changed text, as SentencePiece itself would.
"""

import io
import re
from pathlib import Path
from typing import Iterable, Iterator, Optional

import numpy as np
import sentencepiece

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import (
    BOS,
    EOS,
    PAD,
    SPECIAL_SYMBOLS,
    UNK,
    Tokenizer,
    check_unicode,
    read_tokenizer_file,
)

MODEL_FILE = "sentencepiece.model"
MODEL_OPTION = "--opt-sentencepiece-model"
SPACE_MARK = "\u2581"
# Comes back unchanged only from a model that neither normalises nor adds nor drops anything.
PROBE = (
    "  a\u0301\u00e1 \ufb01\u2460\uff21\u3000\u00a0\t\r\n\n\x00\x7f\ufeff\U0001f600\U000e0041 b  "
)
# Training reads lines; longer ones are cut, and characters it reserves are left to the byte pieces.
MAX_LINE_CHARACTERS = 4_000
RESERVED = re.compile(f"[\\x00-\\x1f{SPACE_MARK}]")


class SentencePiece(Tokenizer):
    """A SentencePiece model; dictionary ids are its pieces in order behind fairseq's four."""

    bpe_name = "opt_sentencepiece"
    file_names = (MODEL_FILE,)

    def __init__(self, model_path: Path) -> None:
        """Read the model; raises UserError where it is unreadable."""
        self._model = read_tokenizer_file(model_path, MODEL_OPTION)
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except RuntimeError as error:
            raise UserError(
                f"`{MODEL_OPTION}` must be a SentencePiece model, but '{model_path}' is not. "
                "Set it to the .model file."
            ) from error
        pieces = self._pieces
        special = {pieces.bos_id(): BOS, pieces.pad_id(): PAD, pieces.eos_id(): EOS}
        special[pieces.unk_id()] = UNK
        own = [number for number in range(len(pieces)) if number not in special]
        super().__init__([pieces.id_to_piece(n) for n in own], [self._text_of(n) for n in own])
        self._dictionary_id = np.empty(len(pieces), dtype=np.int64)
        for number, dictionary_id in special.items():
            if number >= 0:  # -1: the model has no such symbol
                self._dictionary_id[number] = dictionary_id
        self._dictionary_id[own] = np.arange(len(own)) + len(SPECIAL_SYMBOLS)
        self._piece_id = [pieces.bos_id(), pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), *own]
        self._piece_id += [-1] * (len(self) - len(self._piece_id))
        self._space_mark: Optional[list[int]] = None
        self.is_exact = super().decode(self._encode_one(PROBE)) == PROBE
        if self.is_exact:
            self._space_mark = [
                int(self._dictionary_id[pieces.piece_to_id(f"<0x{byte:02X}>")])
                for byte in SPACE_MARK.encode()
            ]

    def _text_of(self, number: int) -> Optional[bytes]:
        """The bytes that piece ``number`` stands for; nothing for control symbols."""
        if self._pieces.is_control(number):
            return b""
        if self._pieces.is_unused(number):
            return None
        piece = self._pieces.id_to_piece(number)
        if self._pieces.is_byte(number):
            return bytes([int(piece[3:5], 16)])  # "<0x0A>"
        return piece.replace(SPACE_MARK, " ").encode()

    def _encode_one(self, text: str) -> np.ndarray:
        return self._dictionary_id[np.array(self._pieces.encode(text), dtype=np.int64)]

    def encode(self, text: str) -> np.ndarray:
        check_unicode(text)
        if self._space_mark is None or SPACE_MARK not in text:
            return self._encode_one(text)
        parts: list[np.ndarray] = []
        for part in text.split(SPACE_MARK):
            parts += [np.array(self._space_mark, dtype=np.int64), self._encode_one(part)]
        return np.concatenate(parts[1:])

    def decode(self, ids: Iterable[int]) -> str:
        if self.is_exact:
            return super().decode(ids)
        numbers = (self._piece_id[number] for number in self._checked(ids))
        return self._pieces.decode([number for number in numbers if number >= 0])

    def files(self) -> dict[str, bytes]:
        return {MODEL_FILE: self._model}


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            line = RESERVED.sub(" ", line)
            for start in range(0, len(line), MAX_LINE_CHARACTERS):
                yield line[start : start + MAX_LINE_CHARACTERS]


def train_sentence_pieces(
    texts: Iterable[str], vocab_size: int, folder: Path, exact_size: bool
) -> int:
    """Train a model that loses nothing, write ``sentencepiece.model``; return the size reached.

    ``vocab_size`` counts the four special symbols and the 256 bytes. Raises UserError if the texts
    cannot fill it and ``exact_size`` is set, or if it cannot hold the texts' characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_training_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=exact_size,
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * MAX_LINE_CHARACTERS,  # bytes; UTF-8 has at most 4 a character
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        reason = str(error).rsplit("] ", 1)[-1]
        raise UserError(
            f"`--vocab-size` must fit the corpus, but is {vocab_size}. SentencePiece says: {reason}"
        ) from error
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
