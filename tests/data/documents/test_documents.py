"""Input files: how they are cut into documents, and what is said of a bad one."""

import gzip
import json
import pickle
import time
from pathlib import Path
from typing import Iterable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents import reading
from metaseq_plugin.data.documents.inputs import find_inputs
from metaseq_plugin.data.documents.parsing import BadDocumentError, parse
from metaseq_plugin.data.documents.reading import (
    SECTION_BYTES,
    RawDocument,
    SplitDocuments,
    open_input,
    read_documents,
)


def read(path: Path, split: SplitDocuments = SplitDocuments.section) -> list[RawDocument]:
    with open_input(path) as raw:
        return list(read_documents(path, raw, split))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def texts(found: Iterable[RawDocument]) -> list[str]:
    return [parse(document) for document in found]


def test_a_short_text_file_is_one_document(tmp_path: Path) -> None:
    text = "\n\n One\r\n\r\n two \n\n"
    assert texts(read(write(tmp_path / "a.txt", text.encode()))) == [text]


def test_a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"line {n} of a play\n" + "\n" * (n % 7 == 0) for n in range(9_000))
    found = read(write(tmp_path / "a.txt", text.encode()))
    assert len(found) > 5
    assert "".join(texts(found)) == text
    assert all(document.content.endswith(b"\n\n") for document in found[:-1])
    assert all(len(document.content) >= SECTION_BYTES for document in found[:-1])
    for document in found:
        assert document.offset == text.index(parse(document))
        assert document.line == text.count("\n", 0, document.offset) + 1


@settings(max_examples=60, derandomize=True, deadline=None)
@given(unit=st.text(st.characters(codec="utf-8", exclude_characters="\n\0\ufeff"), min_size=1))
def test_a_line_without_end_is_cut_between_characters(
    tmp_path_factory: pytest.TempPathFactory, unit: str
) -> None:
    text = unit * (100_000 // len(unit.encode()))
    found = read(write(tmp_path_factory.mktemp("line") / "a.txt", text.encode()))
    assert len(found) > 2
    assert "".join(texts(found)) == text
    assert max(len(document.content) for document in found) <= 2 * SECTION_BYTES


def test_other_ways_to_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a\r\nb\r\n \r\n\r\nc\nd\n\n\n  e")
    assert texts(read(path, SplitDocuments.file)) == ["a\r\nb\r\n \r\n\r\nc\nd\n\n\n  e"]
    assert texts(read(path, SplitDocuments.blank_line)) == ["a\r\nb", "c\nd", "  e"]
    assert texts(read(path, SplitDocuments.line)) == ["a", "b", "c", "d", "  e"]
    assert [document.line for document in read(path, SplitDocuments.line)] == [1, 2, 5, 6, 9]


def test_packed_files_give_the_same(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} \u00e9\n", "id": n}) for n in range(20_000)]
    plain = "\n\n".join(lines).encode()  # blank lines are no records
    half = len(plain) // 2
    frames = [zstd.compress(part) for part in (plain[:half], plain[half:])]
    expected = [f"{n} \u00e9\n" for n in range(20_000)]
    for name, content in (
        ("a.jsonl", plain),
        ("a.jsonl.gz", gzip.compress(plain)),
        ("A.JSONL.ZST", b"".join(frames)),
    ):
        assert texts(read(write(tmp_path / name, content))) == expected


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert texts(read(write(tmp_path / "a.txt", b"\xef\xbb\xbfa\xef\xbb\xbf"))) == ["a\ufeff"]
    record = b'\xef\xbb\xbf{"text": "b"}'
    assert texts(read(write(tmp_path / "a.jsonl", record))) == ["b"]


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in (
        "b.txt", "a/z.jsonl", "a/b.md", ".hidden/x.txt", "dict.txt", "c.txt.gz", "twice.txt.zst.gz"
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([str(tmp_path)], [tmp_path / "dict.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a/z.jsonl",
        "b.txt",
        "c.txt.gz",
    ]


GOOD = b'{"text": "fine"}\n'
# name -> (file name, content, what the sentence says)
BAD = {
    "no JSON": ("a.jsonl", GOOD + b"{nope\n", "Line 2 of '.*a.jsonl' must be a JSON object .* is not JSON"),
    "cut JSON": ("a.jsonl", GOOD * 4 + b'{"text": "fi', "Line 5 of .* is not JSON"),
    "deep JSON": ("a.jsonl", b"[" * 200_000, "Line 1 of .* is not JSON"),
    "a list": ("a.jsonl", b"[1]\n", "Line 1 of .* is a list"),
    "no text": ("a.jsonl", b'\n\n{"body": "x", "id": 1}\n', r'Line 3 of .* has no "text" \(it has body, id\)'),
    "empty object": ("a.jsonl", b"{}\n", 'has no "text" .it has nothing.'),
    "text is a number": ("a.jsonl", b'{"text": 3}', '"text" is a int'),
    "text is null": ("a.jsonl", b'{"text": null}', '"text" is a NoneType'),
    "lone surrogate": ("a.jsonl", GOOD + b'{"text": "\\ud800"}', r"Line 2 .* lone surrogate U\+D800"),
    "bad UTF-8 record": ("a.jsonl", GOOD + b'{"text": "\xff"}', r"Line 2 .* 0xFF \(byte 27 of the file\)"),
    "bad UTF-8 text": ("a.txt", b"one\ntwo\n\xc3(", r"Line 3 of .* 0xC3 \(byte 8 of the file\)"),
    "UTF-16": ("a.txt", b"o\0n\0e\0", "Line 1 of .* has a NUL byte"),
    "binary": ("a.txt", bytes(range(256)) * 900, "Line 1 of .* has a NUL byte|0x80"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(GOOD * 9_999)[:-9], "must be readable, but .* is not .Compressed file ended"),
    "bad gzip": ("a.jsonl.gz", b"no gzip at all", "must be readable, but .* is not"),
    "damaged gzip": ("a.jsonl.gz", gzip.compress(GOOD * 9)[:12] + b"\xff" * 40, "must be readable, but .* is not"),
    "cut zstd": ("a.jsonl.zst", zstd.compress(GOOD * 9_999)[:-9], "ended before the end-of-stream"),
    "cut second frame": ("a.jsonl.zst", zstd.compress(GOOD) + zstd.compress(GOOD * 9_999)[:-9], "ended before"),
    "bad zstd": ("a.txt.zst", b"no zstd at all", "must be readable, but .* is not"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    file, content, sentence = BAD[name]
    path = write(tmp_path / file, content)
    with pytest.raises(UserError, match=sentence):
        texts(read(path))


def test_a_document_has_a_greatest_length_and_reading_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_DOCUMENT_BYTES", 1_000)
    record = b'{"text": "' + b"x" * 5_000 + b'"}\n'
    first, long, *rest = read(write(tmp_path / "a.jsonl", GOOD + record + GOOD + record[:-1]))
    assert texts([first, rest[0]]) == ["fine"] * 2
    assert (rest[0].line, rest[0].offset) == (3, len(GOOD + record))
    assert [document.is_cut for document in (first, long, *rest)] == [False, True, False, True]
    with pytest.raises(BadDocumentError, match=r"Line 2 of .*a.jsonl' must be shorter than") as bad:
        parse(long)
    assert (bad.value.fault.line, bad.value.fault.offset) == (2, len(GOOD))
    assert pickle.loads(pickle.dumps(bad.value)).fault == bad.value.fault
    blocks = write(
        tmp_path / "a.txt", b"a\n\n" + b"x\n" * 2_000 + b"\nb\n" + b"y" * 3_000 + b"\n\nc"
    )
    found = read(blocks, SplitDocuments.blank_line)
    assert [(document.content[:1], document.line, document.is_cut) for document in found] == [
        (b"a", 1, False), (b"x", 3, True), (b"b", 2_004, True), (b"c", 2_007, False)
    ]  # fmt: skip
    with pytest.raises(UserError, match="`--split-documents section`"):
        texts(read(blocks, SplitDocuments.file))


def test_folders_behind_links_are_searched_but_not_in_circles(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "00", elsewhere):
        folder.mkdir(parents=True)
        (folder / "a.txt").touch()
    (data / "01").symlink_to(elsewhere)
    assert find_inputs([str(data)], []) == [data / "00" / "a.txt", data / "01" / "a.txt"]
    (elsewhere / "back").symlink_to(data)  # a circle of two
    with pytest.raises(
        UserError, match=r"links in circles, but '.*01/back' leads back to '.*data'"
    ):
        find_inputs([str(data)], [])
    (elsewhere / "back").unlink()
    (elsewhere / "self").symlink_to(elsewhere)
    with pytest.raises(UserError, match="links in circles"):
        find_inputs([str(data)], [])
    (elsewhere / "self").unlink()
    (data / "lost.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"'.*lost.txt' is a link to nothing"):
        find_inputs([str(data)], [])


def test_wrong_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good, other = write(tmp_path / "a.txt", b"a"), write(tmp_path / "a.pdf", b"a")
    for names, sentence in (
        ([tmp_path / "none.txt"], "must be a file or folder that exists"),
        ([tmp_path / "empty"], "holds none"),
        ([other], r"must end in .txt, .txt.gz, .* but is '.*a.pdf'"),
        ([good, tmp_path], "must be named once, but '.*a.txt' is named twice"),
    ):
        with pytest.raises(UserError, match=sentence):
            find_inputs([str(name) for name in names], [])


@pytest.mark.parametrize("split", [SplitDocuments.line, SplitDocuments.blank_line])
@pytest.mark.parametrize("blank", [b"\n", b" \t\r\n", b"\n \n\r\n"])
def test_many_blank_lines_are_no_lines_to_count_one_by_one(
    tmp_path: Path, split: SplitDocuments, blank: bytes
) -> None:
    path, count = tmp_path / "a.txt", 1_000_000
    content = b"one\n" + blank * count + b"two\n  three\n" + blank * 3 + b"four"
    path.write_bytes(content)
    started = time.monotonic()
    with open_input(path) as raw:
        found = list(read_documents(path, raw, split))
    assert time.monotonic() - started < 5
    words = [b"one", b"two", b"  three", b"four"]
    expected = words if split is SplitDocuments.line else [b"one", b"two\n  three", b"four"]
    assert [document.content for document in found] == expected
    assert [document.offset for document in found] == [content.index(text) for text in expected]
    assert [d.line for d in found] == [1 + content.count(b"\n", 0, d.offset) for d in found]
