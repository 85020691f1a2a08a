"""The training of new tokenizers of both kinds, from texts to the tokenizer's files.

A SentencePiece model that we train copies every character (``sentencepiece`` says how far that goes).
"""

import io
import re
from pathlib import Path
from typing import Any, Iterable, Iterator

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.tokenizers.base import BOS, EOS, PAD, UNK
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS
from metaseq_plugin.tokenizers.files import BYTE_CHARACTERS, NUM_BYTES
from metaseq_plugin.tokenizers.sentencepiece import MODEL_FILE, SPACE_MARK

MIN_VOCAB_SIZE = len(SPECIAL_SYMBOLS) + NUM_BYTES
# A merge must have been seen twice, or rare names of a small corpus become tokens.
MIN_MERGE_COUNT = 2
# SentencePiece reads lines; longer ones are cut, and characters it reserves are left to the byte pieces.
MAX_LINE_CHARACTERS = 4_000
RESERVED = re.compile(f"[\\x00-\\x1f{SPACE_MARK}]")


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> int:
    """Train on ``texts``, write ``vocab.json`` and ``merges.txt``; return the size reached.

    ``vocab_size`` counts the four special symbols and the 256 bytes; the size reached is smaller
    when the texts have too few pairs that occur twice.
    """
    tokenizer = Tokenizer(models.BPE())
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
