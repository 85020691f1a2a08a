"""The files of a cleaned corpus: the names and the packing of those they come from.

Documents come in the order of the files, so one file is open at a time. A file of which nothing stays
is not made. Packed bytes depend on nothing but the text: no times, no threads.
"""

import gzip
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional, Sequence

from backports import zstd

from metaseq_plugin.data.documents.reading import SplitDocuments, document_format
from metaseq_plugin.data.tools.corpus_files import CorpusFile
from metaseq_plugin.storage import atomic

GZIP_LEVEL = 6
ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.checksum_flag: 1,
}


class CorpusWriter:
    """Writes documents below ``folder``, each into the file that is named as its own was."""

    def __init__(
        self, files: Sequence[CorpusFile], folder: Path, split_documents: SplitDocuments
    ) -> None:
        self.targets = {str(file.path): folder / file.relative for file in files}
        self.split_documents = split_documents
        self._path: Optional[str] = None
        self._stream: Any = None
        self._separator = b""
        self._open_files = ExitStack()

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def write(self, path: str, document: bytes) -> None:
        """Append a document of the source file ``path``."""
        if path != self._path:
            self._open_files.close()
            self._open(path)
            self._path = path
        elif self._separator:
            self._stream.write(self._separator)
        self._stream.write(document + b"\n")

    def _open(self, path: str) -> None:
        target = self.targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        raw = target.open("wb")
        self._open_files.callback(atomic.flush, target)  # a full disk is noticed here at the latest
        self._open_files.enter_context(raw)
        if target.name.lower().endswith(".gz"):
            packed: Any = gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0)
        elif target.name.lower().endswith(".zst"):
            packed = zstd.ZstdFile(raw, "wb", options=ZSTD_OPTIONS)
        else:
            packed = None
        self._stream = raw if packed is None else self._open_files.enter_context(packed)
        is_text = document_format(target) == ".txt"
        by_blank_line = self.split_documents is SplitDocuments.blank_line
        self._separator = b"\n" if is_text and by_blank_line else b""
