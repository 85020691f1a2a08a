"""Train a vocabulary on a sample of the corpus, in bounded memory and a process of its own.

The sample is made of the documents with the smallest hashes, as many as fit into SAMPLE_BYTES: a
uniform choice, the same for the same corpus and seed, made in one pass. Training runs in a child
process, so that its memory is given back and its threads are gone before workers are forked.
"""

import heapq
import os
from pathlib import Path
from typing import Iterable, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.parsing import parse
from metaseq_plugin.data.documents.reading import RawDocument
from metaseq_plugin.data.prepare.corpus_tokens import NO_TEXT, seeded_hash
from metaseq_plugin.data.processes import killed_means, process_pool
from metaseq_plugin.tokenizers.byte_level import ByteLevelBPE
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces

SAMPLE_BYTES = 33_554_432
# The vocabulary aimed at when none is asked for; a small corpus gets what it can fill.
DEFAULT_VOCAB_SIZE = 8_192


def sample_documents(documents: Iterable[RawDocument], seed: int) -> list[RawDocument]:
    """Documents of at most SAMPLE_BYTES together (or one longer one), in corpus order."""
    kept: list[tuple[int, int, RawDocument]] = []  # the greatest hash first
    num_bytes = 0
    for number, document in enumerate(documents):
        heapq.heappush(kept, (-seeded_hash(document.content, seed), -number, document))
        num_bytes += len(document.content)
        while num_bytes > SAMPLE_BYTES and len(kept) > 1:
            num_bytes -= len(heapq.heappop(kept)[2].content)
    return [document for _, _, document in sorted(kept, key=lambda entry: -entry[1])]


def _train(bpe: str, texts: list[str], vocab_size: Optional[int], folder: Path, cores: int) -> int:
    os.environ["RAYON_NUM_THREADS"] = str(cores)
    size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
    if bpe == ByteLevelBPE.bpe_name:
        return train_byte_level_bpe(texts, size, folder)
    return train_sentence_pieces(texts, size, folder, exact_size=vocab_size is not None)


def train_vocabulary(
    bpe: str,
    documents: Iterable[RawDocument],
    vocab_size: Optional[int],
    folder: Path,
    seed: int,
    num_workers: int,
) -> None:
    """Write a tokenizer of kind ``bpe`` into ``folder``.

    Raises UserError if there is no text, if a sampled document is bad, or if the corpus cannot fill
    ``vocab_size`` (None: DEFAULT_VOCAB_SIZE or what it can fill).
    """
    texts = [text for text in map(parse, sample_documents(documents, seed)) if text]
    if not texts:
        raise UserError(NO_TEXT)
    killed = killed_means(
        "Training the vocabulary must not be killed, but was; perhaps memory ran out. Free some "
        "memory, or give a tokenizer with `--bpe` and its files."
    )
    with process_pool(1) as pool, killed:
        reached = pool.submit(_train, bpe, texts, vocab_size, folder, num_workers).result()
    if vocab_size is not None and reached < vocab_size:
        raise UserError(
            f"`--vocab-size` must be at most {reached} for these inputs, but is {vocab_size}. "
            "Set it lower, or add text."
        )
