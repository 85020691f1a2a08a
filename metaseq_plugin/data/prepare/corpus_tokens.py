"""From documents to token files on all cores: chunks out, chunk files back, splits at the end.

The steps:
(1) ``tokenize_corpus`` hands the corpus's chunks to processes; each turns one into a chunk file, which
    appears whole or not at all, so an interrupted run goes on with the chunks that are missing;
(2) ``merge_chunks`` sends each document to ``train`` or ``valid`` and writes fairseq's files.

A document's split depends on its text and the seed alone: equal documents never stand in both
splits, and neither order nor workers matter.

    chunks/000000.npz    tokens (sum of sizes,), sizes (documents,), hashes (documents,), …
"""

from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.binarized.writer import BinarizedWriter
from metaseq_plugin.data.documents.chunks import Chunk
from metaseq_plugin.data.documents.parsing import parse
from metaseq_plugin.data.processes import in_order
from metaseq_plugin.storage import atomic
from metaseq_plugin.tokenizers.base import EOS, Tokenizer
from metaseq_plugin.tokenizers.dictionary import token_dtype

HASH_BYTES = 8
NO_TEXT = "The inputs must hold text, but all their documents are empty. Name other files."
SPLITS = ("train", "valid")


def seeded_hash(content: bytes, seed: int) -> int:
    key = blake2b(content, digest_size=HASH_BYTES, key=b"%d" % seed)
    return int.from_bytes(key.digest(), "little")


def _chunk_file(folder: Path, chunk: Chunk) -> Path:
    return folder / f"{chunk.number:06d}.npz"


def tokenize_chunk(chunk: Chunk, folder: Path, tokenizer: Tokenizer, seed: int) -> int:
    """Write the chunk's file; the bytes of input it took.

    Raises UserError with file and line at the first bad document.
    """
    path = _chunk_file(folder, chunk)
    dtype = token_dtype(len(tokenizer))
    tokens, hashes, num_bytes, num_empty = [], [], [], 0
    for document in chunk.documents:
        text = parse(document)
        if not text:
            num_empty += 1
            continue
        encoded = text.encode()
        hashes.append(seeded_hash(encoded, seed))
        num_bytes.append(len(encoded))
        tokens.append(np.append(tokenizer.encode(text), EOS).astype(dtype))
    with atomic.replacing(path) as unfinished, unfinished.open("wb") as stream:
        np.savez(
            stream,
            tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=dtype),
            sizes=np.array([len(ids) for ids in tokens], dtype=np.int32),
            hashes=np.array(hashes, dtype=np.uint64),
            num_bytes=np.array(num_bytes, dtype=np.int64),
            num_empty=np.array(num_empty, dtype=np.int64),
        )
    return chunk.num_input_bytes


def tokenize_corpus(
    chunks: Iterable[Chunk],
    folder: Path,
    tokenizer: Tokenizer,
    seed: int,
    num_workers: int,
    advance: Callable[[int], object],
) -> list[Path]:
    """Make the chunk files that ``folder`` lacks; all of them, in order.

    The error raised is that of the first bad document of the corpus, whatever the number of workers.
    """
    paths: list[Path] = []

    def missing() -> Iterator[Chunk]:
        for chunk in chunks:
            paths.append(_chunk_file(folder, chunk))
            if paths[-1].exists():
                advance(chunk.num_input_bytes)
            else:
                yield chunk

    work = partial(tokenize_chunk, folder=folder, tokenizer=tokenizer, seed=seed)
    for num_input_bytes in in_order(work, missing(), num_workers):
        advance(num_input_bytes)
    return paths


def _valid_threshold(chunk_files: list[Path], valid_fraction: float) -> np.uint64:
    """Documents whose hash lies below it are held out; moved where one split would be empty."""
    wanted = np.uint64(int(valid_fraction * 2 ** (8 * HASH_BYTES)))
    bounds: list[np.uint64] = []
    num_documents = 0
    for path in chunk_files:
        with np.load(path) as chunk:
            hashes = chunk["hashes"]
        if len(hashes):
            num_documents += len(hashes)
            bounds += [hashes.min(), hashes.max()]
    if not bounds:
        raise UserError(NO_TEXT)
    lowest, highest = min(bounds), max(bounds)
    if lowest == highest:
        raise UserError(
            "The inputs must hold at least two different documents, one of them to validate on, "
            f"but hold {num_documents}, all equal. Add text, or cut .txt files finer with "
            "`--split-documents blank-line` or `line`."
        )
    return np.uint64(min(max(wanted, lowest + np.uint64(1)), highest))


def merge_chunks(
    chunk_files: list[Path], folder: Path, dtype: np.dtype, valid_fraction: float
) -> dict[str, dict[str, int]]:
    """Write both splits' ``.bin`` and ``.idx`` into ``folder``.

    Returns split → {"documents", "tokens" (the ends included), "bytes" (of UTF-8 text)}, and how
    many empty documents were left out. Raises UserError if a split would have no document.
    """
    threshold = _valid_threshold(chunk_files, valid_fraction)
    writers = {split: BinarizedWriter(folder, split, dtype) for split in SPLITS}
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    num_empty = 0
    for path in chunk_files:
        with np.load(path) as chunk:
            tokens, sizes, num_bytes = chunk["tokens"], chunk["sizes"], chunk["num_bytes"]
            is_valid = chunk["hashes"] < threshold
            num_empty += int(chunk["num_empty"])
        for split, chosen in zip(SPLITS, (~is_valid, is_valid), strict=True):
            writers[split].add(tokens[np.repeat(chosen, sizes)], sizes[chosen])
            counts[split]["documents"] += int(chosen.sum())
            counts[split]["tokens"] += int(sizes[chosen].sum())
            counts[split]["bytes"] += int(num_bytes[chosen].sum())
    for writer in writers.values():
        writer.close()
    return {**counts, "left_out": {"empty_documents": num_empty}}
