"""The rows of an evaluation set's file, each with its line; what is wrong with one is told in a sentence.

for row in json_rows(data.open(FILE), FILE):
    row.text("context"), row.number("toxicity")
"""

import csv
import json
import math
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.evaluate.task import DataFile

SHOWN = 80  # characters of what a wrong line has


class Row(NamedTuple):
    """One row of ``path``, whose first line is ``line``."""

    path: Path
    file: DataFile
    line: int
    fields: Mapping[str, Any]

    def text(self, name: str, among: Optional[Sequence[str]] = None) -> str:
        """The text of a field, one of ``among`` where that is given; raises UserError."""
        value = self.value(name)
        if not isinstance(value, str) or (among is not None and value not in among):
            rule = "a text" if among is None else f"one of {', '.join(among)}"
            raise self.wrong(f"{name} is not {rule} but {value!r}")
        return value

    def filled(self, name: str, among: Optional[Sequence[str]] = None) -> str:
        """The text of a field that is not blank; raises UserError."""
        text = self.text(name, among)
        if not text.strip():
            raise self.wrong(f"{name} is empty")
        return text

    def number(self, name: str) -> Optional[float]:
        """The number from 0 to 1 of a field; None where it says null or NaN; raises UserError."""
        value = self.value(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise self.wrong(f"{name} is not a number from 0 to 1 but {value!r}")
        return float(value)

    def part(self, name: str) -> "Row":
        """The object in a field, as a row; raises UserError."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.wrong(f"{name} is not an object but {value!r}")
        return self._replace(fields=value)

    def value(self, name: str) -> Any:
        if name not in self.fields:
            raise self.wrong(f"it has no {name}")
        return self.fields[name]

    def wrong(self, why: str) -> UserError:
        return wrong_line(self.path, self.file, self.line, why)


def wrong_line(path: Path, file: DataFile, line: int, why: str) -> UserError:
    return UserError(
        f"{path} must be {file.form.rstrip('.')}, but line {line} is not: {brief(why, SHOWN)}. "
        f"Get it again from {file.source}."
    )


def lines_of(path: Path, file: DataFile) -> list[str]:
    """The lines of a file in UTF-8; raises UserError where it is another, cannot be read, or holds nothing."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path} must be a file that can be read, but is not ({error.strerror}). Check its rights."
        ) from error
    except UnicodeDecodeError as error:
        raise wrong_line(path, file, 1, f"its bytes are no UTF-8 ({error.reason})") from error
    if not text.strip():
        raise wrong_line(path, file, 1, "there is nothing in it")
    return text.split("\n")  # not splitlines: a text may hold U+2028


def json_rows(path: Path, file: DataFile) -> Iterator[Row]:
    """The rows of a file of one JSON object a line; raises UserError."""
    for line, text in enumerate(lines_of(path, file), start=1):
        if text.strip():
            yield json_row(path, file, line, text)


def json_row(path: Path, file: DataFile, line: int, text: str) -> Row:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong_line(path, file, line, f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise wrong_line(path, file, line, f"it is not an object but {text}")
    return Row(path, file, line, fields)


def csv_rows(
    path: Path, file: DataFile, columns: Sequence[str], delimiter: str = ","
) -> Iterator[Row]:
    """The rows of a file with a header that has at least ``columns``; raises UserError."""
    lines = (f"{line}\n" for line in lines_of(path, file))
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        lacking = sorted(set(columns) - set(reader.fieldnames or ()))
        if lacking:
            raise wrong_line(path, file, 1, f"it has no column {lacking[0]}")
        for fields in reader:
            yield Row(path, file, reader.line_num, fields)
    except csv.Error as error:
        raise wrong_line(path, file, reader.line_num + 1, f"it is no row ({error})") from error
