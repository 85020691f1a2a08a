"""Rows of an evaluation set's file, JSONL or CSV, with its faults told by line.

for line, row in json_rows(path, {"text": str}): ...
for line, row in csv_rows(path, ("comment", "isHate"), ";"): ...
"""

import csv
import json
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError

Kinds = Mapping[str, type]  # field -> what it must be
SPOKEN = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def json_rows(path: Path, fields: Kinds) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each object with the number of its line; blank lines are left out.

    Raises:
        UserError: a line that is no object, or without one of ``fields`` in its kind; or no line at all.
    """
    found = False
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        for field, kind in fields.items():
            if not isinstance(row, dict) or not is_a(row.get(field), kind):
                raise UserError(
                    f'{path}:{number} must be a JSON object with "{field}", {SPOKEN[kind]}, but is {line[:80]}. '
                    "Get the file from its source again."
                )
        found = True
        yield number, row
    if not found:
        raise nothing_in(path)


def csv_rows(
    path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each row below the header, with the number of the line on which it ends.

    Raises:
        UserError: a column that is missing, a row that is longer or shorter than the header; or no row at all.
    """
    reader = csv.DictReader(text_of(path).splitlines(keepends=True), delimiter=delimiter)
    given = reader.fieldnames or ()
    missing = [column for column in columns if column not in given]
    if missing:
        raise UserError(
            f"{path} must have the columns {', '.join(columns)}, separated by {delimiter!r}, but lacks "
            f"{', '.join(missing)}. Get the file from its source again."
        )
    found = False
    for row in reader:
        if None in row or None in row.values():
            raise UserError(
                f"{path}:{reader.line_num} must have {len(given)} columns as its header, but has another number. "
                "Get the file from its source again."
            )
        found = True
        yield reader.line_num, row
    if not found:
        raise nothing_in(path)


def share(row: Mapping[str, str], column: str, path: Path, line: int) -> float:
    """A column's number from 0 to 1.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(
            f"{path}:{line} must have a number from 0 to 1 as {column}, but has {row[column]}. "
            "Get the file from its source again."
        )
    return value


def text_of(path: Path) -> str:
    """A file's text; ends of line are ``\\n``.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} must be UTF-8, but is not at byte {error.start}. Get the file from its source again."
        ) from error


def is_a(value: object, kind: type) -> bool:
    """Whether ``value`` is of the kind; a truth value is no number, and a whole number is a number."""
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def nothing_in(path: Path) -> UserError:
    return UserError(
        f"{path} must have at least one row, but has none. Get the file from its source again."
    )
