"""fairseq's ``--bpe`` choices: our tokenizers behind its encoder interface.

fairseq's own ``--bpe sentencepiece`` drops spaces at the ends and cannot carry symbols with white
space; these give back the text that went in (``sentencepiece`` says for which models).
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_options


class SymbolEncoder:
    """Text ↔ symbols of ``dict.txt`` between single spaces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> str:
        return self.tokenizer.encode_symbols(text)

    def decode(self, symbols: str) -> str:
        return self.tokenizer.decode_symbols(symbols)

    def is_beginning_of_word(self, symbol: str) -> bool:
        return self.tokenizer.begins_word(symbol)


@dataclass
class OptBPEConfig(FairseqDataclass):
    opt_bpe_vocab: Optional[str] = field(
        default=None, metadata={"help": "path of the tokenizer's vocab.json (symbol to id)"}
    )
    opt_bpe_merges: Optional[str] = field(
        default=None, metadata={"help": "path of the tokenizer's merges.txt (one pair a line)"}
    )


@register_bpe("opt_bpe", dataclass=OptBPEConfig)
class OptBPE(SymbolEncoder):
    def __init__(self, cfg: OptBPEConfig) -> None:
        super().__init__(from_options("opt_bpe", cfg.opt_bpe_vocab, cfg.opt_bpe_merges))


@dataclass
class OptSentencePieceConfig(FairseqDataclass):
    opt_sentencepiece_model: Optional[str] = field(
        default=None, metadata={"help": "path of the SentencePiece .model file"}
    )


@register_bpe("opt_sentencepiece", dataclass=OptSentencePieceConfig)
class OptSentencePiece(SymbolEncoder):
    def __init__(self, cfg: OptSentencePieceConfig) -> None:
        super().__init__(from_options("opt_sentencepiece", cfg.opt_sentencepiece_model))
