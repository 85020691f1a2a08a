"""Bad corpora: one sentence that says where, or, when asked for, left out, counted and named."""

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.streaming import tokens
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.line_scan import line_number
from metaseq_plugin.data.streaming.tokens import Reader, Workers
from tests.data.streaming.worlds import (
    FIRST_WORD,
    TOKENIZER,
    Fleet,
    open_split,
    samples_of,
    write_jsonl,
    write_world,
)

GOOD = [b'{"text": "1 2 3"}\n', b'{"text": "4 5"}\n']
BAD_LINES = {
    "no JSON": (b'{"text": "1 2\n', "is not JSON"),
    "no object": (b'"1 2"\n', "is a str"),
    "no text": (b'{"body": "1 2"}\n', 'has no "text" (it has body)'),
    "a number": (b'{"text": 12}\n', '"text" is a int'),
    "null": (b'{"text": null}\n', '"text" is a NoneType'),
    "bad UTF-8": (b'{"text": "1 \xff 2"}\n', "0xFF"),
    "half a surrogate": (b'{"text": "\\ud800"}\n', "lone surrogate U+D800"),
    "a NUL": (b"\0\0\0\n", "is not JSON"),
}


def write_bad(folder: Path, line: bytes) -> Path:
    path = folder / "train" / "00" / "c.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD[0] + b"\n" + GOOD[1] + line + GOOD[0])
    return path


def all_targets(folder: Path, skips_bad: bool = False, num_workers: int = 0) -> List[int]:
    """The words of an epoch, in sorted order."""
    split = open_split(folder, skips_bad=skips_bad)
    workers = Workers(split.reader, num_workers)
    fleet = Fleet(split, workers, 1, 1)
    targets: List[int] = []
    try:
        while fleet.epochs[0].has_next():
            for batch in next(fleet.epochs[0]):
                targets += [token for _, _, target in samples_of(batch) for token in target]
    finally:
        workers.close()
    all_targets.seen = json.loads(fleet.state())["streaming"]["seen_before"]  # type: ignore[attr-defined]
    return sorted(token - FIRST_WORD for token in targets if token >= FIRST_WORD)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, name: str, num_workers: int) -> None:
    line, said = BAD_LINES[name]
    path = write_bad(tmp_path, line)
    offset = len(GOOD[0]) + 1 + len(GOOD[1])
    offset += line.index(b"\xff") if name == "bad UTF-8" else 0
    with pytest.raises(UserError) as error:
        all_targets(tmp_path, num_workers=num_workers)
    sentence = str(error.value).rsplit("UserError: ", 1)[-1]
    assert f"Line 4 of '{path}'" in sentence
    assert f"byte {offset} of the file" in sentence
    assert said in sentence
    assert sentence.endswith("--skip-bad-documents.")


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_left_out_when_asked_for(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    line, said = BAD_LINES[name]
    write_bad(tmp_path, line)
    with caplog.at_level(logging.WARNING):
        assert all_targets(tmp_path, skips_bad=True) == [1, 1, 2, 2, 3, 3, 4, 5]
    assert all_targets.seen["c"] == {"documents": 3, "tokens": 11, "empty": 0, "bad": 1}  # type: ignore[attr-defined]
    assert said in caplog.text
    assert "Line 4 of" in caplog.text


def test_many_bad_documents_are_counted_and_some_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["1"])
    path.write_bytes(path.read_bytes() + b"{}\n" * 500)
    assert all_targets(tmp_path, skips_bad=True) == [1]
    assert all_targets.seen["c"]["bad"] == 500  # type: ignore[attr-defined]
    assert caplog.text.count("left out: ") == 20


def test_lines_are_counted_for_the_bad_documents_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To count the lines before one is to read all of them."""
    path = write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["1"])
    path.write_bytes(path.read_bytes() + b"{}\n" * 500)
    counted: List[int] = []

    def count(name: Path, offset: int) -> int:
        counted.append(offset)
        return line_number(name, offset)

    monkeypatch.setattr(tokens, "line_number", count)
    assert all_targets(tmp_path, skips_bad=True) == [1]
    assert len(counted) == 20
    assert [f"Line {line_number(path, offset)} of" in caplog.text for offset in counted] == [
        True
    ] * 20


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["", "1 2", " \n", "", "3", "\t"])
    assert all_targets(tmp_path) == [1, 2, 3]
    assert all_targets.seen["c"] == {"documents": 2, "tokens": 5, "empty": 4, "bad": 0}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_two_hundred_thousand_empty_documents(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train" / "00" / "c.jsonl", [""] * 200_000 + ["1 2"])
    assert all_targets(tmp_path) == [1, 2]
    assert all_targets.seen["c"]["empty"] == 200_000  # type: ignore[attr-defined]


def test_nothing_but_empty_documents_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["", " "])
    with pytest.raises(UserError, match="must hold text, but all documents"):
        all_targets(tmp_path)


@pytest.mark.slow
def test_a_document_of_50_megabytes(tmp_path: Path) -> None:
    count = 10_000_000
    text = "12345 " * (count // 2) + "1234 " * (count // 2)
    write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["1", text, "2"])
    split = open_split(tmp_path, block_size=2_048, window=4)
    fleet = Fleet(split, Workers(split.reader, 0), 1, 1)
    number = sum(len(t) for u in range(10) for _, _, t in fleet.update())
    assert number == 10 * 2 * 2_048


def test_a_document_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_DOCUMENT_BYTES", 100)
    write_jsonl(tmp_path / "train" / "00" / "c.jsonl", ["1", "2 " * 100, "3"])
    with pytest.raises(UserError, match=r"at most 100 bytes, but the one at line 2 of .* has 213"):
        all_targets(tmp_path)
    assert all_targets(tmp_path, skips_bad=True) == [1, 3]


def test_an_empty_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_world(tmp_path, {"a": 5})
    path = write_jsonl(tmp_path / "train" / "01" / "b.jsonl", [])
    with pytest.raises(UserError, match=f"must hold documents, but {path} holds none"):
        open_corpora(str(tmp_path), "train", None, False)
    assert open_corpora(str(tmp_path), "train", None, True).names == ["a"]
    assert str(path) in caplog.text


def without(name: str) -> Callable[[Path], Any]:
    def remove(split: Path) -> None:
        for path in sorted((split / name).rglob("*"), reverse=True):
            path.unlink()
        (split / name).rmdir()

    return remove


LAYOUTS: Dict[str, Any] = {
    "a gap": (without("01"), "has no shard 01 and has 02"),
    "no shard 0": (without("00"), "has no shard 00"),
    "an empty shard": (
        lambda split: (split / "03").mkdir(),
        "must hold .* files, but .*03 holds none",
    ),
    "two shards of a number": (
        lambda split: (split / "2").mkdir(),
        "must each have a number of their own, but .* holds 02 and 2",
    ),
    "no split": (lambda split: split.rename(split.with_name("other")), "must hold a folder train"),
    "two files of a corpus": (
        lambda split: (split / "00" / "a.txt").write_text("1"),
        "one file of each corpus, but .* holds a.jsonl and a.txt",
    ),
    "a link to itself": (
        lambda split: (split / "00" / "b.jsonl").symlink_to("b.jsonl"),
        "must be readable, but .*b.jsonl is not",
    ),
    "a link to nothing": (
        lambda split: (split / "00" / "b.jsonl").symlink_to("nowhere"),
        "must be readable, but .*b.jsonl is not",
    ),
    "a folder named as a file": (
        lambda split: (split / "00" / "b.jsonl").mkdir(),
        "must be readable, but .*b.jsonl is not",
    ),
    "a shard that is a link to itself": (
        lambda split: (split / "03").symlink_to("03"),
        "must be readable, but .*03 is not",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_bad_layout_is_refused(tmp_path: Path, name: str) -> None:
    write_world(tmp_path, {"a": 9}, num_shards=3)
    spoil, said = LAYOUTS[name]
    spoil(tmp_path / "train")
    with pytest.raises(UserError, match=said):
        open_corpora(str(tmp_path), "train", None, False)


def test_links_in_circles_lead_nowhere(tmp_path: Path) -> None:
    write_world(tmp_path, {"a": 9})
    (tmp_path / "train" / "00" / "again").symlink_to(tmp_path / "train", target_is_directory=True)
    assert open_corpora(str(tmp_path), "train", None, False).num_documents.tolist() == [9]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    write_world(tmp_path, {"a": 9})
    (tmp_path / "train" / "01" / "a.jsonl").chmod(0)
    with pytest.raises(UserError, match=r"must be readable, but .*a\.jsonl is not"):
        open_corpora(str(tmp_path), "train", None, False)


CHANGES: Dict[str, Any] = {
    "shrinks": (lambda path: os.truncate(path, 50), "must not change .* and has 50"),
    "grows": (lambda path: path.open("ab").write(GOOD[0]), "must not change while it is read"),
    "is replaced": (lambda path: write_jsonl(path, ["7"]), "must not change while it is read"),
    "is touched": (lambda path: os.utime(path, ns=(5, 5)), "must not change while it is read"),
    "vanishes": (lambda path: path.unlink(), "must stay where it is .* can no longer be read"),
}


def updates(fleet: Fleet, count: int) -> None:
    for _ in range(count):
        fleet.update()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changes_during_the_run(
    tmp_path: Path, name: str, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "RANGE_DOCUMENTS", 8)
    write_world(tmp_path, {"a": 400}, num_shards=1)
    split = open_split(tmp_path)
    workers = Workers(Reader(TOKENIZER, True), num_workers)  # skipping documents is no excuse
    fleet = Fleet(split, workers, 1, 1)
    try:
        fleet.update()
        change, said = CHANGES[name]
        change(tmp_path / "train" / "00" / "a.jsonl")
        with pytest.raises(UserError, match=said):
            updates(fleet, 200)
    finally:
        workers.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unpacking_again_is_no_change(
    tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a rank that does not see yet, or has no locks to see, what another one has made."""
    monkeypatch.setattr(tokens, "RANGE_DOCUMENTS", 8)
    write_world(tmp_path, {"a": 100}, num_shards=1)
    plain = tmp_path / "train" / "00" / "a.jsonl"
    plain.with_name("a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    split = open_split(tmp_path)
    workers = Workers(split.reader, num_workers)
    fleet = Fleet(split, workers, 1, 1)
    try:
        fleet.update()
        (tmp_path / "train" / "00" / ".a.jsonl.gz.index.npy").unlink()
        open_split(tmp_path)
        updates(fleet, 40)
    finally:
        workers.close()


def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    write_world(tmp_path, {"a": 4_000}, longest=5)
    split = open_split(tmp_path)
    workers = Workers(split.reader, 1)
    fleet = Fleet(split, workers, 1, 1)
    fleet.update()
    assert workers.pool is not None
    for pid in list(workers.pool._processes):
        os.kill(pid, 9)
    with pytest.raises(UserError, match="data worker must not be killed"):
        updates(fleet, 10_000)
    workers.close()
