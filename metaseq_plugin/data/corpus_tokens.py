"""From input files to token files on all cores: chunks out, chunk files back, splits at the end.

The steps:
(1) ``read_chunks`` groups documents into chunks of about CHUNK_BYTES, the same for any number of
    workers;
(2) ``tokenize_corpus`` keeps a process pool fed; a worker turns a chunk into one chunk file, which
    appears whole or not at all, so an interrupted run goes on with the chunks that are missing;
(3) ``merge_chunks`` sends each document to ``train`` or ``valid`` and writes fairseq's files.

A document's split depends on its text and the seed alone: equal documents never stand in both
splits, and neither order nor workers matter.

    chunks/000000.npz    tokens (sum of sizes,), sizes (documents,), hashes (documents,), …
"""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

import numpy as np
from fairseq.data.indexed_dataset import best_fitting_int_dtype
from tqdm import tqdm

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data import tokenizers
from metaseq_plugin.data.binarized import BinarizedWriter
from metaseq_plugin.data.documents import (
    RawDocument,
    SplitDocuments,
    open_input,
    parse,
    read_documents,
)
from metaseq_plugin.data.tokenizer_base import EOS

CHUNK_BYTES = 4_194_304
HASH_BYTES = 8
SPLITS = ("train", "valid")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerDiedError(UserError):
    """A worker process was killed from outside; finished chunks are kept for the next run."""


class Chunk(NamedTuple):
    """A run of documents, and how many (packed) bytes of input were read for it."""

    number: int  # from 0
    documents: list[RawDocument]
    num_input_bytes: int


class ProgressBar(tqdm):
    """tqdm without its monitor thread: a process that has threads should not be forked."""

    monitor_interval = 0


def progress_bar(description: str, num_bytes: int) -> tqdm:
    return ProgressBar(desc=description, total=num_bytes, unit="B", unit_scale=True)


def read_with_progress(
    files: list[Path], split_documents: SplitDocuments, advance: Callable[[int], object]
) -> Iterator[RawDocument]:
    """The documents of all files in order; ``advance`` is told the (packed) bytes read."""
    for path in files:
        position = 0
        with open_input(path) as raw:
            for document in read_documents(path, raw, split_documents):
                if raw.tell() != position:
                    advance(raw.tell() - position)
                    position = raw.tell()
                yield document
            advance(raw.tell() - position)


def read_chunks(files: list[Path], split_documents: SplitDocuments) -> Iterator[Chunk]:
    """The documents of all files in order, in chunks of at least CHUNK_BYTES but for the last."""
    number, num_bytes = 0, 0
    documents: list[RawDocument] = []
    steps: list[int] = []
    for document in read_with_progress(files, split_documents, steps.append):
        documents.append(document)
        num_bytes += len(document.content)
        if num_bytes >= CHUNK_BYTES:
            yield Chunk(number, documents, sum(steps))
            number, documents, num_bytes = number + 1, [], 0
            steps.clear()
    yield Chunk(number, documents, sum(steps))


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of this process: read once, before the workers are forked."""
    return tokenizers.from_folder(folder)


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that fairseq stores token ids of such a dictionary in."""
    return np.dtype(best_fitting_int_dtype(vocab_size))


def tokenize_chunk(chunk: Chunk, tokenizer_folder: Path, seed: int, path: Path) -> None:
    """Write the chunk file ``path``; UserError with file and line at the first bad document."""
    tokenizer = _tokenizer(tokenizer_folder)
    dtype = token_dtype(len(tokenizer))
    tokens, hashes, num_bytes, num_empty = [], [], [], 0
    for document in chunk.documents:
        text = parse(document)
        if not text:
            num_empty += 1
            continue
        encoded = text.encode()
        key = blake2b(encoded, digest_size=HASH_BYTES, key=b"%d" % seed)
        hashes.append(int.from_bytes(key.digest(), "little"))
        num_bytes.append(len(encoded))
        tokens.append(np.append(tokenizer.encode(text), EOS).astype(dtype))
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as stream:
        np.savez(
            stream,
            tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=dtype),
            sizes=np.array([len(ids) for ids in tokens], dtype=np.int32),
            hashes=np.array(hashes, dtype=np.uint64),
            num_bytes=np.array(num_bytes, dtype=np.int64),
            num_empty=np.array(num_empty, dtype=np.int64),
        )
    unfinished.replace(path)


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and die with it: an orphan would go on holding its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def process_pool(num_workers: int) -> ProcessPoolExecutor:
    """Forked workers: they share what is loaded, and need not import torch again."""
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num_workers, context, initializer=follow_parent)


def tokenize_corpus(
    chunks: Iterable[Chunk],
    folder: Path,
    tokenizer_folder: Path,
    seed: int,
    num_workers: int,
    advance: Callable[[int], object],
) -> list[Path]:
    """Make the chunk files that ``folder`` lacks; all of them, in order.

    At most two chunks a worker are in memory. The error raised is that of the first bad document
    of the corpus, whatever the number of workers.
    """
    _tokenizer(tokenizer_folder)
    paths: list[Path] = []
    pending: deque[tuple[Chunk, Future]] = deque()

    def finish_first() -> None:
        chunk, future = pending.popleft()
        future.result()
        advance(chunk.num_input_bytes)

    pool = process_pool(num_workers)
    try:
        for chunk in chunks:
            path = folder / f"{chunk.number:06d}.npz"
            paths.append(path)
            if path.exists():
                advance(chunk.num_input_bytes)
                continue
            # Documents stay here only as long as the pool needs them.
            future = pool.submit(tokenize_chunk, chunk, tokenizer_folder, seed, path)
            pending.append((chunk._replace(documents=[]), future))
            if len(pending) >= 2 * num_workers:
                finish_first()
        while pending:
            finish_first()
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "A worker process must not be killed, but one was; perhaps memory ran out. Run the "
            "same command again with fewer `--workers`: finished work is kept."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return paths


def _valid_threshold(chunk_files: list[Path], valid_fraction: float) -> np.uint64:
    """Documents whose hash lies below it are held out; moved where one split would be empty."""
    wanted = np.uint64(int(valid_fraction * 2 ** (8 * HASH_BYTES)))
    lowest, highest, num_documents = None, None, 0
    for path in chunk_files:
        with np.load(path) as chunk:
            hashes = chunk["hashes"]
        if len(hashes):
            num_documents += len(hashes)
            lowest = hashes.min() if lowest is None else min(lowest, hashes.min())
            highest = hashes.max() if highest is None else max(highest, hashes.max())
    if lowest is None or highest is None:
        raise UserError(
            "The inputs must hold text, but all their documents are empty. Name other files."
        )
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


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))
