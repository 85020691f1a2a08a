"""The documents of many files one after the other, in runs that worker processes take.

(1) ``read_with_progress`` reads file after file and tells how far it is, in packed bytes;
(2) ``read_chunks`` groups what it reads into chunks of about CHUNK_BYTES, the same for any number of
    workers.
"""

from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

from tqdm import tqdm

from metaseq_plugin.data.documents.reading import (
    RawDocument,
    SplitDocuments,
    open_input,
    read_documents,
)

CHUNK_BYTES = 4_194_304


class Chunk(NamedTuple):
    """A run of documents, and how many (packed) bytes of input were read for it."""

    number: int  # from 0
    documents: list[RawDocument]
    num_input_bytes: int


class ProgressBar(tqdm):
    """tqdm without its monitor thread: a process that has threads should not be forked."""

    monitor_interval = 0


def progress_bar(description: str, files: Sequence[Path]) -> tqdm:
    """A bar for the (packed) bytes of ``files``."""
    num_bytes = sum(path.stat().st_size for path in files)
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
