"""Text and JSONL files cut into documents, in order, in bounded memory, with their places.

``read_documents`` streams one file (``unpacked`` on the way) and cuts it into ``RawDocument``s, bytes that
know the line and the byte they came from; ``parsing`` makes text of one.

A line of ``.jsonl`` is a document. How a ``.txt`` file is cut is the user's choice, ``SplitDocuments``.
"""

import gzip
import io
import os
import zlib
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Iterator, NamedTuple, Optional

from backports import zstd  # Python 3.14 has it as compression.zstd

from metaseq_plugin.compat.errors import UserError

FORMATS = (".txt", ".jsonl")
FORMAT_OF = {form + packing: form for form in FORMATS for packing in ("", ".gz", ".zst")}
SUFFIXES = tuple(FORMAT_OF)
# What reading a damaged file can raise, besides OSError for one that cannot be read at all.
DAMAGED = (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile)
BUFFER_BYTES = 1_048_576
# About 4,000 tokens of English: several documents even in a small file, so that some can be held
# out, and each longer than the context of any OPT.
SECTION_BYTES = 16_384
MAX_DOCUMENT_BYTES = 67_108_864
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_CHARACTER_BYTES = 4  # of one character in UTF-8
# Text packs to a fifth, the most repetitive logs to a hundredth; 4 KB of zeros can mean 128 MB.
MAX_UNPACKED_RATIO = 200
UNPACKED_AT_LEAST = 8_388_608  # whatever the ratio: so much is read in seconds, line by line


class SplitDocuments(str, Enum):
    """What one document of a ``.txt`` file is."""

    section = "section"  # the file, but a long one is cut at a blank line every SECTION_BYTES
    file = "file"  # the file, whatever its length
    blank_line = "blank-line"  # a run of lines without blank ones; blank lines are dropped
    line = "line"  # a line without its end; blank lines are dropped


DROPS_BLANK = (SplitDocuments.line, SplitDocuments.blank_line)


class RawDocument(NamedTuple):
    """The bytes of one document and where they stand in the (unpacked) file."""

    path: str
    line: int  # of the first byte, from 1
    offset: int  # of the first byte, from 0
    content: bytes
    is_cut: bool = False  # longer than MAX_DOCUMENT_BYTES: content is how it begins


class Line(NamedTuple):
    """One line with its end, a piece of one that is longer than the limit, or several blank ones."""

    number: int  # from 1
    offset: int  # in bytes, from 0
    content: bytes


def document_format(path: Path) -> Optional[str]:
    """ ".txt" or ".jsonl" whether packed or not; None for a file that is neither."""
    name = path.name.lower()
    return next((form for suffix, form in FORMAT_OF.items() if name.endswith(suffix)), None)


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(
        f"An input must be readable, but '{path}' is not ({reason}). "
        "Check its permissions, or, if it is a damaged archive, make it again."
    )


def open_input(path: Path) -> BinaryIO:
    """``path`` open for reading, still packed; UserError if that is not allowed."""
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


class BoundedReader(io.RawIOBase):
    """What a packed file unpacks to, up to ``MAX_UNPACKED_RATIO`` times its own size.

    Args:
        inner: the unpacking stream.
        packed_bytes: the size of the file.
    """

    def __init__(self, inner: BinaryIO, path: Path, packed_bytes: int) -> None:
        self._inner, self._path = inner, path
        self._left = max(UNPACKED_AT_LEAST, MAX_UNPACKED_RATIO * packed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._inner.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise UserError(
                f"A packed file must unpack to at most {MAX_UNPACKED_RATIO} times its size, but "
                f"'{self._path}' holds more. If you know what it holds, unpack it yourself first."
            )
        buffer[: len(content)] = content
        return len(content)


def unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """A buffered reader of the unpacked bytes of ``raw``, the open file ``path``.

    A half-copied corpus must not pass for a short one: both libraries raise EOFError there, and take
    several frames. A file that unpacks to far more than text can be is a UserError.
    """
    name = path.name.lower()
    if not name.endswith((".gz", ".zst")):
        return raw
    stream: Any = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else zstd.ZstdFile(raw)
    # The readline of either is a call of Python's for each line, a quarter of the time.
    bounded = BoundedReader(stream, path, os.fstat(raw.fileno()).st_size)
    return io.BufferedReader(bounded, BUFFER_BYTES)


def read_documents(path: Path, raw: BinaryIO, split: SplitDocuments) -> Iterator[RawDocument]:
    """The documents of the file ``path``, open as ``raw``; UserError for a damaged archive."""
    if document_format(path) == ".jsonl":
        split = SplitDocuments.line
    limit = 2 * SECTION_BYTES if split is SplitDocuments.section else MAX_DOCUMENT_BYTES
    lines = _read_lines(unpacked(path, raw), limit, joins_blank=split in DROPS_BLANK)
    try:
        yield from _join_lines(str(path), lines, split)
    except (OSError, *DAMAGED) as error:
        raise _unreadable(path, error) from error


def _read_lines(stream: Any, limit: int, joins_blank: bool) -> Iterator[Line]:
    """Lines of at most ``limit`` bytes; a longer one comes in pieces, cut between characters.

    Args:
        stream: buffered.
        joins_blank: whether blank lines in a row may come as one; a file can consist of millions.
    """
    number, offset, kept = 1, 0, b""
    while content := kept + stream.readline(limit - len(kept)):
        kept = b""
        if len(content) == limit and not content.endswith(b"\n"):
            cut = _last_character_start(content)
            content, kept = content[:cut], content[cut:]
        if offset == 0 and content.startswith(BYTE_ORDER_MARK):  # a signature, not text
            content, offset = content[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
        num_lines = int(content.endswith(b"\n"))
        if joins_blank and num_lines and content[:1].isspace() and content.isspace():
            ahead = stream.peek()
            space = ahead[: len(ahead) - len(ahead.lstrip())]
            more = stream.read(space.rfind(b"\n") + 1)
            content, num_lines = content + more, num_lines + more.count(b"\n")
        yield Line(number, offset, content)
        number += num_lines
        offset += len(content)


def _last_character_start(content: bytes) -> int:
    """Where the last, possibly unfinished, UTF-8 character begins (the end if none does)."""
    for back in range(1, MAX_CHARACTER_BYTES + 1):
        if content[-back] & 0b1100_0000 != 0b1000_0000:  # not a continuation byte
            return len(content) - back
    return len(content)


def _join_lines(path: str, lines: Iterator[Line], split: SplitDocuments) -> Iterator[RawDocument]:
    drops_blank = split in DROPS_BLANK
    document: list[Line] = []
    num_bytes, is_cut = 0, False
    for line in lines:
        is_blank = not line.content.strip()
        if not is_cut and not (is_blank and drops_blank):
            document.append(line)
            num_bytes += len(line.content)
        # A line that was cut is a few bytes short of the limit.
        if split is not SplitDocuments.section and num_bytes > MAX_DOCUMENT_BYTES - 8:
            yield _joined(path, document, drops_blank)._replace(is_cut=True)
            document, num_bytes, is_cut = [], 0, True  # what follows of it is passed over
        if document and _ends_document(line, is_blank, num_bytes, split):
            yield _joined(path, document, drops_blank)
            document, num_bytes = [], 0
        if is_cut and _ends_cut_document(line, is_blank, split):
            is_cut = False
    if document:
        yield _joined(path, document, drops_blank)


def _joined(path: str, lines: list[Line], drops_end: bool) -> RawDocument:
    content = b"".join(line.content for line in lines)
    if drops_end:
        content = content.removesuffix(b"\n").removesuffix(b"\r")
    return RawDocument(path, lines[0].number, lines[0].offset, content)


def _ends_document(line: Line, is_blank: bool, num_bytes: int, split: SplitDocuments) -> bool:
    if split is SplitDocuments.section:
        is_long = num_bytes >= 2 * SECTION_BYTES - MAX_CHARACTER_BYTES
        return is_long or (is_blank and num_bytes >= SECTION_BYTES)
    if split is SplitDocuments.blank_line:
        return is_blank
    return split is SplitDocuments.line


def _ends_cut_document(line: Line, is_blank: bool, split: SplitDocuments) -> bool:
    if split is SplitDocuments.blank_line:
        return is_blank
    return split is SplitDocuments.line and line.content.endswith(b"\n")
