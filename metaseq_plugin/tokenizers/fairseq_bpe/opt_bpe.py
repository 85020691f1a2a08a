"""``--bpe opt_bpe``: OPT's byte-level BPE behind fairseq's encoder interface."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.tokenizers.open import byte_level_bpe


@dataclass
class OptBPEConfig(FairseqDataclass):
    opt_bpe_vocab: Optional[str] = field(
        default=None, metadata={"help": "path of the tokenizer's vocab.json (symbol to id)"}
    )
    opt_bpe_merges: Optional[str] = field(
        default=None, metadata={"help": "path of the tokenizer's merges.txt (one pair a line)"}
    )


@register_bpe("opt_bpe", dataclass=OptBPEConfig)
class OptBPE:
    """Text ↔ symbols of ``dict.txt`` between single spaces."""

    def __init__(self, cfg: OptBPEConfig) -> None:
        self.tokenizer = byte_level_bpe(cfg.opt_bpe_vocab, cfg.opt_bpe_merges)

    def encode(self, text: str) -> str:
        return self.tokenizer.encode_symbols(text)

    def decode(self, symbols: str) -> str:
        return self.tokenizer.decode_symbols(symbols)

    def is_beginning_of_word(self, symbol: str) -> bool:
        return self.tokenizer.begins_word(symbol)
