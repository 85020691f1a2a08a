"""SentencePiece models as fairseq tokenizers.

A model that ``train`` made copies every character: no normalisation, no added or removed spaces, bytes
for characters it does not know. One character remains that SentencePiece itself cannot carry,
U+2581, which it uses for the space; ``encode`` writes that one as its three bytes. So text → ids →
text is exact.

A model trained elsewhere is used as it is: where its own settings change the text (say NFKC, or a
space in front), decoding gives the changed text, as SentencePiece itself would.
"""

from typing import Iterable, Optional

import numpy as np
import sentencepiece

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import (
    BOS,
    EOS,
    PAD,
    UNK,
    Tokenizer,
    check_unicode,
)
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS
from metaseq_plugin.tokenizers.tokenizer_file import TokenizerFile

MODEL_FILE = "sentencepiece.model"
MODEL_OPTION = "--opt-sentencepiece-model"
MAX_MODEL_BYTES = 16 * 2**20  # in memory it takes twenty times as much
SPACE_MARK = "\u2581"
# Comes back unchanged only from a model that neither normalises nor adds nor drops anything.
PROBE = (
    "  a\u0301\u00e1 \ufb01\u2460\uff21\u3000\u00a0\t\r\n\n\x00\x7f\ufeff\U0001f600\U000e0041 b  "
)


class SentencePiece(Tokenizer):
    """A SentencePiece model; dictionary ids are its pieces in order behind fairseq's four."""

    bpe_name = "opt_sentencepiece"
    file_names = (MODEL_FILE,)
    file_options = (MODEL_OPTION,)

    def __init__(self, model_file: TokenizerFile) -> None:
        """Read the model; raises UserError where it is unreadable."""
        self._model = model_file.read(MAX_MODEL_BYTES)
        try:
            self._set_up(model_file)
        except UserError:
            raise
        except (RuntimeError, ValueError, LookupError) as error:  # also names that are no UTF-8
            raise UserError(
                f"{model_file.subject} must be a SentencePiece model, but {model_file.it} is not. "
                "Use the .model file."
            ) from error

    def _set_up(self, model_file: TokenizerFile) -> None:
        """Number the pieces, and try the model on a text; SentencePiece's errors where it is damaged."""
        self._pieces = sentencepiece.SentencePieceProcessor()
        self._pieces.LoadFromSerializedProto(self._model)
        pieces = self._pieces
        model_file.check_num_symbols(len(pieces))
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
