"""Unpacked bytes of ``.gz`` and ``.zst`` files, as buffered readers that notice a missing end.

Python's gzip raises when a file was cut off; zstandard's own stream reader just stops there, so a
half-copied corpus would pass for a short one. ``ZstdReader`` follows the frames and raises.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Optional

import zstandard

# What reading a damaged file can raise, besides OSError for one that cannot be read at all.
DAMAGED = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile)
READ_BYTES = 16_384  # packed; small, because a frame can unpack to thousands of times its size
BUFFER_BYTES = 1_048_576


class ZstdReader(io.RawIOBase):
    """The content of all frames of a zstd file; raises EOFError if the last one is unfinished."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self._frame: Optional[Any] = None  # the decompressor of the frame being read
        self._packed = b""
        self._unpacked = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._raw.read(READ_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._unpacked))
        buffer[:size] = self._unpacked[:size]
        self._unpacked = self._unpacked[size:]
        return size


def unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """A buffered reader of the unpacked bytes of ``raw``, the open file ``path``."""
    if path.name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if path.name.lower().endswith(".zst"):
        return io.BufferedReader(ZstdReader(raw), BUFFER_BYTES)
    return raw
