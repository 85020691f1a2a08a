"""Where the documents of a text file begin, found a part of the file at a time.

A line of ``.jsonl`` that is not blank is a document; in ``.txt`` one begins with each line that
follows a blank line. A part tells the lines that begin in it; whether its first line goes on with
the document before is known once the part before is done, and ``joined`` settles that.
"""

from pathlib import Path
from typing import BinaryIO, Iterator, NamedTuple, Optional, Sequence

import numpy as np

READ_BYTES = 8_388_608
NEWLINE = ord("\n")
IS_SPACE = np.array([chr(byte).isspace() and byte < 128 for byte in range(256)])


class Part(NamedTuple):
    """What one part of a file says of its documents."""

    starts: np.ndarray  # of documents, in bytes from the start of the file
    begins_with_text: bool  # whether its first line is not blank
    ends_blank: Optional[bool]  # whether its last line is; None if no line begins in it


def _whole_lines(stream: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of runs of whole lines that cover those beginning in [begin, end)."""
    offset = begin
    if begin > 0:  # the line that begins before this part is the part before's
        stream.seek(begin - 1)
        offset -= 1
        while offset < end and (piece := stream.readline(READ_BYTES)):
            offset += len(piece)
            if piece.endswith(b"\n"):
                break
    pieces: list[bytes] = []
    while offset < end:
        content = stream.read(READ_BYTES)
        cut = content.rfind(b"\n") + 1 if content else 0
        if content and not cut:  # in the middle of a long line
            pieces.append(content)
            continue
        lines = b"".join([*pieces, content[:cut]])
        if lines:
            yield offset, lines
        if not content:
            return
        offset += len(lines)
        pieces = [content[cut:]]


def _blank_lines(lines: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where each line of ``lines`` starts, and whether it is blank, both (lines,)."""
    content = np.frombuffer(lines, dtype=np.uint8)
    ends = np.flatnonzero(content == NEWLINE) + 1
    if len(ends) == 0 or ends[-1] != len(lines):
        ends = np.append(ends, len(lines))
    starts = np.concatenate([[0], ends[:-1]])
    is_blank = IS_SPACE[content[starts]]
    for line in np.flatnonzero(is_blank):  # few: those that begin with white space
        is_blank[line] = lines[starts[line] : ends[line]].isspace()
    return starts, is_blank


def scan(path: Path, begin: int, end: int, by_blank_line: bool) -> Part:
    """The documents of the lines that begin in bytes [begin, end) of ``path``."""
    found = [np.zeros(0, dtype=np.int64)]
    begins_with_text, ends_blank = False, None
    with path.open("rb") as stream:
        for offset, lines in _whole_lines(stream, begin, end):
            starts, is_blank = _blank_lines(lines)
            inside = int(np.searchsorted(starts, end - offset))
            starts, is_blank = starts[:inside], is_blank[:inside]
            if ends_blank is None:
                begins_with_text = not is_blank[0]
            is_start = ~is_blank
            if by_blank_line:
                was_blank = ends_blank is None or ends_blank
                is_start &= np.concatenate([[was_blank], is_blank[:-1]])
            found.append(offset + starts[is_start])
            ends_blank = bool(is_blank[-1])
    return Part(np.concatenate(found), begins_with_text, ends_blank)


def joined(parts: Sequence[Part], by_blank_line: bool) -> np.ndarray:
    """The starts (documents,) of a whole file from its parts in order."""
    starts: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    was_blank = True
    for part in parts:
        goes_on = by_blank_line and not was_blank and part.begins_with_text
        starts.append(part.starts[1:] if goes_on else part.starts)
        was_blank = was_blank if part.ends_blank is None else part.ends_blank
    return np.concatenate(starts)


def line_number(path: Path, offset: int) -> int:
    """The number, from 1, of the line that byte ``offset`` of ``path`` lies in."""
    number, left = 1, offset
    with path.open("rb") as stream:
        while content := stream.read(min(left, READ_BYTES)):
            number += content.count(b"\n")
            left -= len(content)
    return number
