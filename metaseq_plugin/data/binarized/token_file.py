"""The two files of a binarised split: ``<split>.idx`` says how long each document is, ``<split>.bin`` has its tokens.

    file = TokenFile("data/train")
    file.sizes                      tokens of each document
    file.read(1_000, 3_049)         tokens 1,000 to 3,048 of the split

fairseq's own reader maps both and believes what the index says. A file that is cut off while it is mapped
kills the process (SIGBUS), and one that is written anew is trained on as whatever it now holds. Here tokens
are read, not mapped, and every read first asks whether the file is still the one that was opened.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fairseq.data.indexed_dataset import data_file_path, index_file_path

from metaseq_plugin.compat.errors import UserError

# fairseq's index: magic, version, code of the type, documents; their sizes (int32), their offsets (int64).
HEADER = struct.Struct("<9sQBQ")
MAGIC, VERSION = b"MMIDIDX\x00\x00", 1
SIZE_BYTES, OFFSET_BYTES = 4, 8
# Its codes for the types that a token id can have.
TOKEN_TYPES = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64,
    8: np.uint16, 9: np.uint32, 10: np.uint64,
}  # fmt: skip
AGAIN = "Make the data folder again"


class Index(NamedTuple):
    """What an index says of its split."""

    sizes: np.ndarray  # (documents,) int64, tokens
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Of the file of tokens."""
        return int(self.sizes.sum()) * self.dtype.itemsize


def read_index(path: Path) -> Index:
    """Read ``path``.

    Raises:
        UserError: it cannot be read, is of another kind, or is not whole.
    """
    try:
        with path.open("rb") as stream:
            num_bytes = os.fstat(stream.fileno()).st_size
            header = stream.read(HEADER.size)
            if len(header) < HEADER.size or not header.startswith(MAGIC):
                raise UserError(
                    f"{path} must be the index of a memory-mapped split, but is not. {AGAIN}, with "
                    "`metaseq prepare` or `fairseq-preprocess --dataset-impl mmap`."
                )
            _, version, code, documents = HEADER.unpack(header)
            expected = HEADER.size + documents * (SIZE_BYTES + OFFSET_BYTES)
            if version != VERSION or code not in TOKEN_TYPES or num_bytes != expected:
                raise UserError(
                    f"{path} must be a whole index of version {VERSION} and of integers, but is of "
                    f"version {version} and type {code}, and has {num_bytes:,} bytes for {documents:,} "
                    f"documents. {AGAIN}."
                )
            sizes = np.frombuffer(stream.read(documents * SIZE_BYTES), dtype="<i4")
    except OSError as error:
        raise unreadable(path, error) from error
    if len(sizes) < documents or (sizes < 0).any():
        raise UserError(
            f"{path} must give every document a size, but one is negative or missing. {AGAIN}."
        )
    return Index(sizes.astype(np.int64), np.dtype(TOKEN_TYPES[code]))


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} must be readable, but is not ({error.strerror}). Check its permissions, or make the "
        "data folder again."
    )


class TokenFile:
    """The tokens of a binarised split.

    Args:
        prefix: path of its two files without their endings.

    Raises:
        UserError: one of them is damaged or of another kind, or they are not of one split.
    """

    def __init__(self, prefix: str) -> None:
        index = read_index(Path(index_file_path(prefix)))
        self.sizes, self.dtype = index.sizes, index.dtype
        self.path = Path(data_file_path(prefix))
        try:
            self._stream = self.path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable(self.path, error) from error
        status = os.fstat(self._stream.fileno())
        if status.st_size != index.num_bytes:
            raise UserError(
                f"{self.path} must have the {index.num_bytes:,} bytes that its index promises, but has "
                f"{status.st_size:,}. {AGAIN}."
            )
        if status.st_size == 0:
            raise UserError(f"{self.path} must hold at least one token, but is empty. {AGAIN}.")
        self._as_opened = (status.st_size, status.st_mtime_ns)

    def __len__(self) -> int:
        return self._as_opened[0] // self.dtype.itemsize

    def read(self, start: int, end: int) -> np.ndarray:
        """Tokens [start, end), (end - start,), of the file's own type.

        Raises:
            UserError: the file is not what it was when it was opened.
        """
        itemsize, number = self.dtype.itemsize, self._stream.fileno()
        try:
            content = os.pread(number, (end - start) * itemsize, start * itemsize)
            status = os.fstat(number)
        except OSError as error:
            raise unreadable(self.path, error) from error
        now = (status.st_size, status.st_mtime_ns)
        if now != self._as_opened or len(content) != (end - start) * itemsize:
            raise UserError(
                f"{self.path} must not change while it is read, but was written to: it had "
                f"{self._as_opened[0]:,} bytes and has {now[0]:,}. Put it back, and resume from the last "
                "checkpoint."
            )
        return np.frombuffer(content, dtype=self.dtype)
