"""The text of a document, or which line of which file is bad, and why.

A document of ``.jsonl`` is an object whose "text" is the text; pairs have other keys. All of a plain one
is text. Reading goes on behind a bad document, so a caller may leave it out.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import List, NamedTuple, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import MAX_DOCUMENT_BYTES, RawDocument, document_format

TEXT = ("text",)  # the keys of a record, as a rule
UTF8, SHORT_ENOUGH = "UTF-8", f"shorter than {MAX_DOCUMENT_BYTES:,} bytes"  # two of the rules


class Fault(NamedTuple):
    """What is wrong with a document, and where."""

    path: str
    line: int
    offset: int  # of the first bad byte
    rule: str  # what it must be
    found: str


class BadDocumentError(UserError):
    """A document that has no text to give; its sentence names file, line and byte."""

    fault: Fault  # set once made, because Python pickles an error by its sentence


@lru_cache(maxsize=1024)
def _is_jsonl(path: str) -> bool:
    return document_format(Path(path)) == ".jsonl"


def _bad(
    document: RawDocument, position: int, rule: str, found: str, remedy: str
) -> BadDocumentError:
    """The error for a bad byte at ``position`` of the document."""
    line = document.line + document.content.count(b"\n", 0, position)
    offset = document.offset + position
    error = BadDocumentError(
        f"Line {line} of '{document.path}' must be {rule}, but {found} "
        f"(byte {offset} of the file). {remedy}"
    )
    error.fault = Fault(document.path, line, offset, rule, found)
    return error


def parse(document: RawDocument) -> str:
    """The text of ``document``; UserError with file and line if it has none."""
    return parse_fields(document, TEXT)[0]


def parse_fields(document: RawDocument, keys: Sequence[str]) -> List[str]:
    """The strings under ``keys`` of a JSON record, or all of a document of plain text."""
    content = document.content
    if document.is_cut:
        remedy = "Cut it, or, if it is a .txt file, set `--split-documents section`."
        raise _bad(document, 0, SHORT_ENOUGH, "begins a document that is not", remedy)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        found, remedy = f"has the byte 0x{content[error.start]:02X}", "Convert the file to UTF-8."
        raise _bad(document, error.start, UTF8, found, remedy) from error
    if _is_jsonl(document.path):
        return _strings_of_record(document, text, keys)
    if "\0" in text:
        remedy = "Leave out binary files; convert UTF-16 to UTF-8."
        raise _bad(document, content.index(b"\0"), "text", "has a NUL byte", remedy)
    if len(keys) > 1:
        raise _bad(document, 0, f"JSON with {_quoted(keys)}", "is plain text", "Set JSONL files.")
    return [text]


def _quoted(keys: Sequence[str]) -> str:
    return " and ".join(f'"{key}"' for key in keys)


def _printable(text: str) -> str:
    """``text`` with escapes for control characters and for what no terminal can show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _strings_of_record(document: RawDocument, line: str, keys: Sequence[str]) -> List[str]:
    kind = "a string" if len(keys) == 1 else "strings"
    rule, remedy = f"a JSON object with {kind} {_quoted(keys)}", "Mend or remove the line."
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(document, 0, rule, f"is not JSON ({error})", remedy) from error
    if not isinstance(record, dict):
        raise _bad(document, 0, rule, f"is a {type(record).__name__}", remedy)
    for key in keys:
        if key not in record:
            names = ", ".join(_printable(name) for name in list(record)[:5]) or "nothing"
            raise _bad(document, 0, rule, f'has no "{key}" (it has {names[:80]})', remedy)
        text = record[key]
        if not isinstance(text, str):
            raise _bad(document, 0, rule, f'its "{key}" is a {type(text).__name__}', remedy)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f'its "{key}" has the lone surrogate U+{ord(text[error.start]):04X}'
            raise _bad(document, 0, rule, found, remedy) from error
    return [record[key] for key in keys]
