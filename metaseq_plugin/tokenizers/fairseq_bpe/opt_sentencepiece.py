"""``--bpe opt_sentencepiece``: a SentencePiece model behind fairseq's encoder interface.

fairseq's own ``--bpe sentencepiece`` drops spaces at the ends and cannot carry symbols with white
space; this one gives back the text that went in (``sentencepiece`` says for which models).
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.tokenizers.open import sentence_piece


@dataclass
class OptSentencePieceConfig(FairseqDataclass):
    opt_sentencepiece_model: Optional[str] = field(
        default=None, metadata={"help": "path of the SentencePiece .model file"}
    )


@register_bpe("opt_sentencepiece", dataclass=OptSentencePieceConfig)
class OptSentencePiece:
    """Text ↔ symbols of ``dict.txt`` between single spaces."""

    def __init__(self, cfg: OptSentencePieceConfig) -> None:
        self.tokenizer = sentence_piece(cfg.opt_sentencepiece_model)

    def encode(self, text: str) -> str:
        return self.tokenizer.encode_symbols(text)

    def decode(self, symbols: str) -> str:
        return self.tokenizer.decode_symbols(symbols)

    def is_beginning_of_word(self, symbol: str) -> bool:
        return self.tokenizer.begins_word(symbol)
