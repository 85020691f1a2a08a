"""The rows of a data file: each with its line, and with all the fields that a task needs.

    for row in json_rows(data, FILE, ("context", "label")):
        context = text_of(FILE, row, "context")
        label = one_of(FILE, row, "label", ("yes", "no"))

Fields and columns that no task asks for are left as they are.
"""

import csv
import json
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence, TypeVar

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.task import Data, DataFile

T = TypeVar("T")


class Row(NamedTuple):
    """One row; ``line`` counts from 1, as an editor does, and is the last one of a row of several."""

    line: int
    fields: Mapping[str, Any]


def json_rows(data: Data, file: DataFile, fields: Sequence[str]) -> list[Row]:
    """The objects of a JSONL file.

    Raises:
        UserError: a line that is no object or lacks one of ``fields``; a file without any.
    """

    def rows(path: Path) -> Iterator[Row]:
        with path.open(encoding="utf-8") as lines:
            for line, text in enumerate(lines, 1):
                if text.strip():
                    yield Row(line, _object(file, line, text, fields))

    return _checked(rows, data, file)


def csv_rows(data: Data, file: DataFile, columns: Sequence[str], delimiter: str = ",") -> list[Row]:
    """The rows of a table whose first row names its columns.

    Raises:
        UserError: a table without one of ``columns``, a row without a value in one, or no row.
    """

    def rows(path: Path) -> Iterator[Row]:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            _complete(file, 1, reader.fieldnames or (), columns, "column")
            try:
                for fields in reader:
                    present = [name for name, value in fields.items() if value]
                    _complete(file, reader.line_num, present, columns, "value")
                    yield Row(reader.line_num, fields)
            except csv.Error as fault:
                raise refused(file, reader.line_num, "is a row of a table", fault) from None

    return _checked(rows, data, file)


def text_lines(data: Data, file: DataFile) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, each with its number.

    Raises:
        UserError: a file without any.
    """

    def rows(path: Path) -> Iterator[tuple[int, str]]:
        with path.open(encoding="utf-8") as lines:
            for line, text in enumerate(lines, 1):
                if text.strip():
                    yield line, text.strip()

    return _checked(rows, data, file)


def json_document(data: Data, file: DataFile) -> Any:
    """The one JSON value that a file holds.

    Raises:
        UserError: it holds none.
    """
    path = data.open(file)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as fault:
        raise unreadable(file, fault) from None
    except json.JSONDecodeError as fault:
        raise refused(file, fault.lineno, "is JSON", fault.msg) from None


def text_of(file: DataFile, row: Row, field: str) -> str:
    """The field's text.

    Raises:
        UserError: it is no text, or an empty one.
    """
    found = row.fields[field]
    if not isinstance(found, str) or not found.strip():
        raise refused(file, row.line, f"holds a text as {field}", json.dumps(found))
    return found


def one_of(file: DataFile, row: Row, field: str, allowed: Sequence[T]) -> T:
    """The field's value.

    Raises:
        UserError: it is none of ``allowed``.
    """
    found = row.fields[field]
    for value in allowed:
        if type(found) is type(value) and found == value:
            return value
    rule = f"holds one of {', '.join(map(str, allowed))} as {field}"
    raise refused(file, row.line, rule, found)


def refused(file: DataFile, line: int, rule: str, value: object) -> UserError:
    """What to raise of a line: ``rule`` ends "whose line 3 …"."""
    return UserError(
        f"`--data` must hold a {file.path} whose line {line} {rule}, but is {value}. "
        f"Set the file as its source has it ({file.source}): {file.form}"
    )


def unreadable(file: DataFile, fault: object) -> UserError:
    return UserError(
        f"`--data` must hold a readable {file.path}, but is {fault}. "
        f"Set the file as its source has it ({file.source}): {file.form}"
    )


def _checked(rows: Callable[[Path], Iterator[Any]], data: Data, file: DataFile) -> list[Any]:
    path = data.open(file)
    try:
        found = list(rows(path))
    except UnicodeDecodeError as fault:
        raise unreadable(file, fault) from None
    if not found:
        raise unreadable(file, "a file without a row")
    return found


def _object(file: DataFile, line: int, text: str, fields: Sequence[str]) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as fault:
        raise refused(file, line, "is JSON", fault.msg) from None
    if not isinstance(found, dict):
        raise refused(file, line, "is an object of JSON", text.strip()[:40])
    _complete(file, line, found, fields, "field")
    return found


def _complete(
    file: DataFile,
    line: int,
    present: Sequence[str] | Mapping[str, Any],
    wanted: Sequence[str],
    kind: str,
) -> None:
    if missing := [name for name in wanted if name not in present]:
        raise refused(
            file, line, f"has each {kind} of {', '.join(wanted)}", f"without {missing[0]}"
        )
