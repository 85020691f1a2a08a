"""Unpacked bytes of ``.gz`` and ``.zst`` files, read in bounded memory; a missing end is noticed.

A half-copied corpus must not pass for a short one: both libraries raise EOFError there. A file may
have several frames. ``backports.zstd`` is what Python 3.14 has as ``compression.zstd``.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from backports import zstd

# What reading a damaged file can raise, besides OSError for one that cannot be read at all.
DAMAGED = (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile)
BUFFER_BYTES = 1_048_576


def unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """A buffered reader of the unpacked bytes of ``raw``, the open file ``path``."""
    if path.name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if path.name.lower().endswith(".zst"):
        # ZstdFile's own readline is a call of Python's for each line, a quarter of the time.
        return io.BufferedReader(zstd.ZstdFile(raw), BUFFER_BYTES)
    return raw
