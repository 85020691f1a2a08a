"""The indexed corpora of a split: how large each is, and where each of its documents lies."""

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.streaming.files import find_corpora
from metaseq_plugin.data.streaming.index import IndexedFile, indexed

logger = logging.getLogger(__name__)


class Places(NamedTuple):
    """Where D documents lie; all that a worker needs to read them."""

    files: list[tuple[str, str, int, int]]  # path for the user, path to read, its size and mtime_ns
    file: np.ndarray  # (D,) which of ``files``
    start: np.ndarray  # (D,) bytes
    size: np.ndarray  # (D,) bytes


class Corpus:
    """The files of one name, their documents numbered through in the order of shards."""

    def __init__(self, name: str, files: Sequence[IndexedFile]) -> None:
        self.name, self.files = name, list(files)
        self.ends = np.cumsum([file.num_documents for file in files])  # of each file's documents
        self.num_documents = int(self.ends[-1])
        self.num_bytes = sum(int(file.starts[-1] - file.starts[0]) for file in files)

    def locate(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """File, start and size in bytes of each of ``documents``, all (D,)."""
        file = np.searchsorted(self.ends, documents, side="right")
        start, size = np.empty_like(documents), np.empty_like(documents)
        for number in np.unique(file):
            here = np.flatnonzero(file == number)
            first = self.ends[number] - self.files[number].num_documents
            local, starts = documents[here] - first, self.files[number].starts
            start[here] = starts[local]
            size[here] = starts[local + 1] - starts[local]
        return file, start, size


class Corpora:
    """All corpora of a split, in the order of their names."""

    def __init__(self, corpora: Sequence[Corpus], root: Path) -> None:
        self.corpora, self.root = list(corpora), root
        self.names = [corpus.name for corpus in corpora]
        self.num_documents = np.array([corpus.num_documents for corpus in corpora])
        self.num_bytes = np.array([corpus.num_bytes for corpus in corpora])

    def places(self, corpora: np.ndarray, documents: np.ndarray) -> Places:
        """Where the given documents (D,) of the given corpora (D,) lie."""
        file, start, size = (np.empty_like(documents) for _ in range(3))
        files: list[tuple[str, str, int, int]] = []
        for number in np.unique(corpora):
            here = np.flatnonzero(corpora == number)
            own, start[here], size[here] = self.corpora[number].locate(documents[here])
            used, own = np.unique(own, return_inverse=True)
            file[here] = own + len(files)
            for index in (self.corpora[number].files[place] for place in used):
                files.append((str(index.path), str(index.text), index.size, index.mtime_ns))
        return Places(files, file, start, size)

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and counts: the same for a copy elsewhere."""
        digest = hashlib.sha256()
        for corpus in self.corpora:
            for file in corpus.files:
                name = os.path.relpath(file.path, self.root)
                digest.update(f"{corpus.name} {name} {file.size} {file.num_documents}\n".encode())
        return digest.hexdigest()[:16]


def open_corpora(data: str, split: str, cache_dir: Optional[str], skips_bad: bool) -> Corpora:
    """Find and index the corpora of ``split``; an empty file is refused, or with ``skips_bad`` named."""
    found = find_corpora(data, split)
    indexes = iter(indexed([path for paths in found.values() for path in paths], cache_dir))
    corpora = []
    for name, paths in found.items():
        files = [next(indexes) for _ in paths]
        for empty in [file.path for file in files if file.num_documents == 0]:
            problem = f"A corpus file must hold documents, but {empty} holds none."
            if not skips_bad:
                raise UserError(f"{problem} Remove it, or set --skip-bad-documents.")
            logger.warning(f"{problem} It is left out.")
        files = [file for file in files if file.num_documents > 0]
        if files:
            corpora.append(Corpus(name, files))
    if not corpora:
        raise UserError(
            f"A split must hold documents, but all files of {Path(data) / split} are empty."
        )
    return Corpora(corpora, Path(data) / split)
