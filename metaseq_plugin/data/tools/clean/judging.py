"""What one document is worth by itself: the workers' part of ``metaseq data clean``.

A document is parsed and its text mended and measured. It comes out with a reason to drop it, or as it would be
written, with what is needed to find copies of it.
"""

import json
import re
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np

from metaseq_plugin.data.documents.chunks import Chunk
from metaseq_plugin.data.documents.parsing import SHORT_ENOUGH, TEXT, UTF8, BadDocumentError, parse
from metaseq_plugin.data.documents.reading import RawDocument, SplitDocuments, document_format
from metaseq_plugin.data.tools.clean.duplicates import digest, signature
from metaseq_plugin.data.tools.clean.repairs import (
    WHITE_SPACE,
    Repaired,
    mend_white_space,
    repaired,
)

EMPTY_LINES = re.compile(r"\n\s*\n")


class Reason(str, Enum):
    """Why a document is dropped; the first that applies, in this order."""

    not_utf8 = "not UTF-8"
    bad_record = "bad record"
    empty = "empty"
    too_short = "too short"
    too_long = "too long"
    copy = "copy"
    near_copy = "near copy"


class Rules(NamedTuple):
    """What the worker processes judge by."""

    min_characters: int
    max_characters: int
    threshold: float  # of Jaccard similarity, from which on a document is a near copy
    split_documents: SplitDocuments


class Judged(NamedTuple):
    """A document after the worker's part: to be dropped for a reason, or as it would be written."""

    path: str
    line: int
    offset: int  # of its first byte, or of the first bad one
    num_bytes: int  # as it was read
    reason: Optional[Reason] = None
    found: str = ""  # what is said of it, beside the reason
    output: bytes = b""
    repairs: Sequence[str] = ()
    digest: bytes = b""
    minima: Optional[np.ndarray] = None  # its signature


def judge(chunk: Chunk, rules: Rules) -> tuple[int, list[Judged]]:
    """The bytes of input of the chunk, and its documents judged; a worker's part."""
    return chunk.num_input_bytes, [_judged(document, rules) for document in chunk.documents]


def _judged(document: RawDocument, rules: Rules) -> Judged:
    judged = Judged(document.path, document.line, document.offset, len(document.content))
    try:
        text = parse(document)
    except BadDocumentError as error:
        fault = error.fault
        reasons = {UTF8: Reason.not_utf8, SHORT_ENOUGH: Reason.too_long}
        return judged._replace(
            line=fault.line,
            offset=fault.offset,
            reason=reasons.get(fault.rule, Reason.bad_record),
            found=f"{fault.found}, must be {fault.rule}",
        )
    mended, repairs = _mended(document, text, rules.split_documents)
    num_characters = len(mended.strip())
    judged = judged._replace(repairs=repairs, found=f"{num_characters:,} characters")
    if num_characters == 0:
        return judged._replace(reason=Reason.empty)
    if num_characters < rules.min_characters:
        return judged._replace(reason=Reason.too_short)
    if num_characters > rules.max_characters:
        return judged._replace(reason=Reason.too_long)
    return judged._replace(
        output=_as_written(document, text, mended),
        digest=digest(mended),
        minima=signature(mended) if rules.threshold < 1 else None,
    )


def _mended(document: RawDocument, text: str, split: SplitDocuments) -> Repaired:
    """``text`` mended, and without what would cut it in two when it is read again.

    So length and copies are those of the text that is written.
    """
    mended, kinds = repaired(text)
    if document_format(Path(document.path)) == ".jsonl":
        return Repaired(mended, kinds)
    if split is SplitDocuments.line:
        whole = mend_white_space(" ".join(mended.splitlines()))
    else:
        whole = EMPTY_LINES.sub("\n", mended)
    if whole != mended and WHITE_SPACE not in kinds:
        kinds = (*kinds, WHITE_SPACE)
    return Repaired(whole, kinds)


def _as_written(document: RawDocument, text: str, mended: str) -> bytes:
    """The bytes of ``document`` with ``mended`` for ``text``: a record, a paragraph or a line."""
    if document_format(Path(document.path)) == ".txt":
        return mended.encode()
    if mended == text:
        return document.content.strip()
    record = json.loads(document.content)
    record[TEXT[0]] = mended
    # A lone surrogate under another key becomes the escape that it was.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")
