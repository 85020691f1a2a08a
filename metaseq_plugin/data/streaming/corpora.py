"""The indexed corpora of a split: how large each is, and where each of its documents lies."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence

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


class Corpora:
    """All corpora of a split, in the order of their names; one is the files of a name, in the order of shards."""

    def __init__(self, corpora: Mapping[str, Sequence[IndexedFile]], root: Path) -> None:
        self.root, self.names = root, list(corpora)
        self.files = [(name, file) for name, files in corpora.items() for file in files]
        counts = [sum(file.num_documents for file in files) for files in corpora.values()]
        self.num_documents = np.array(counts)
        self.num_bytes = np.array(
            [sum(file.num_bytes for file in files) for files in corpora.values()]
        )
        # All documents are numbered through: where those of each corpus begin, and of each file end.
        self._begins = np.cumsum(counts) - counts
        self._ends = np.cumsum([file.num_documents for _, file in self.files])

    def places(self, corpora: np.ndarray, documents: np.ndarray) -> Places:
        """Where the given documents (D,) of the given corpora (D,) lie."""
        numbers = self._begins[corpora] + documents
        in_file = np.searchsorted(self._ends, numbers, side="right")
        used, place = np.unique(in_file, return_inverse=True)
        start, size = np.empty_like(documents), np.empty_like(documents)
        files: list[tuple[str, str, int, int]] = []
        for number in used:
            index = self.files[number][1]
            here = np.flatnonzero(in_file == number)
            local = numbers[here] - (self._ends[number] - index.num_documents)
            start[here], size[here] = index.places(local)
            files.append((str(index.path), str(index.text), index.size, index.mtime_ns))
        return Places(files, place, start, size)

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and counts: the same for a copy elsewhere."""
        digest = hashlib.sha256()
        for corpus, file in self.files:
            name = os.path.relpath(file.path, self.root)
            digest.update(f"{corpus} {name} {file.size} {file.num_documents}\n".encode())
        return digest.hexdigest()[:16]


def open_corpora(data: str, split: str, cache_dir: Optional[str], skips_bad: bool) -> Corpora:
    """Find and index the corpora of ``split``; an empty file is refused, or with ``skips_bad`` named."""
    found = find_corpora(data, split)
    indexes = iter(indexed([path for paths in found.values() for path in paths], cache_dir))
    corpora: dict[str, list[IndexedFile]] = {}
    for name, paths in found.items():
        for file in (next(indexes) for _ in paths):
            if file.num_documents > 0:
                corpora.setdefault(name, []).append(file)
                continue
            problem = f"A corpus file must hold documents, but {file.path} holds none."
            if not skips_bad:
                raise UserError(f"{problem} Remove it, or set --skip-bad-documents.")
            logger.warning(f"{problem} It is left out.")
    if not corpora:
        raise UserError(
            f"A split must hold documents, but all files of {Path(data) / split} are empty."
        )
    return Corpora(corpora, Path(data) / split)
