"""Rows of a set's file: each wrong one is told with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.rows import csv_rows, json_rows
from metaseq_plugin.evaluate.task import DataFile

FILE = DataFile("set.jsonl", None, "example.org", "none", 'JSON lines {"text", "share"}.')


def test_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b", "share": null}\n\n{"text": "c", "share": 1}\n'.encode())  # fmt: skip
    rows = list(json_rows(path, FILE))
    assert [(row.line, row.text("text"), row.number("share")) for row in rows] == [
        (1, "a\u2028b", None),
        (3, "c", 1.0),
    ]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "line 1 is not: there is nothing in it"),
        (b"\n \n", "line 1 is not: there is nothing in it"),
        (b"\xff\xfe", "line 1 is not: its bytes are no UTF-8"),
        (b'{"text": "a"\n', "line 1 is not: it is not JSON"),
        (b'{"text": "a", "share": 1}\n[]\n', "line 2 is not: it is not an object"),
        (b'{"share": 1}', "line 1 is not: it has no text"),
        (b'{"text": 3, "share": 1}', "line 1 is not: text is not a text but 3"),
        (b'{"text": "a", "share": "1"}', "share is not a number from 0 to 1 but '1'"),
        (b'{"text": "a", "share": 1.5}', "share is not a number from 0 to 1 but 1.5"),
        (b'{"text": "a", "share": true}', "share is not a number from 0 to 1 but True"),
    ],
)
def test_wrong_lines(tmp_path: Path, raw: bytes, what: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(raw)
    with pytest.raises(UserError) as refused:
        [(row.text("text"), row.number("share")) for row in json_rows(path, FILE)]
    said = str(refused.value)
    assert said.startswith(f'{path} must be JSON lines {{"text", "share"}}, but ')
    assert what in said
    assert said.endswith("Get it again from example.org.")


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_number_may_be_missing(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"share": value}))
    (row,) = json_rows(path, FILE)
    assert row.number("share") is None


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text('text,label\n"a\nb",x\nc,y\n')
    assert [(row.line, row.text("text")) for row in csv_rows(path, FILE, ["text"])] == [
        (3, "a\nb"),
        (4, "c"),
    ]
    with pytest.raises(UserError, match="line 1 is not: it has no column gold"):
        list(csv_rows(path, FILE, ["text", "gold"]))


def test_a_short_row_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("text,label\na\n")
    (row,) = csv_rows(path, FILE, ["text", "label"])
    with pytest.raises(UserError, match="line 2 is not: label is not a text but None"):
        row.text("label")


def test_what_csv_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("text\na\n" + "x" * 200_000 + "\n")
    with pytest.raises(
        UserError, match=r"line 3 is not: it is no row .field larger than field limit"
    ):
        list(csv_rows(path, FILE, ["text"]))
