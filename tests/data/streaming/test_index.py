"""Indexes: right for any bytes, made once, made anew when the file changes, safe under races."""

import fcntl
import gzip
import json
import multiprocessing
import os
import signal
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List

import numpy as np
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import SplitDocuments, read_documents
from metaseq_plugin.data.streaming import index, line_scan
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.index import cache_names, find_index, indexed
from metaseq_plugin.data.streaming.line_scan import joined, line_number, scan
from metaseq_plugin.storage import atomic
from tests.data.streaming.worlds import write_jsonl

LINES = st.lists(st.sampled_from(["a", "bc", " d", "", " ", "\t\r", "long" * 5]), max_size=30)


@settings(deadline=None, max_examples=300)
@given(LINES, st.booleans(), st.booleans(), st.integers(1, 40), st.integers(1, 40))
def test_parts_find_what_reading_finds(
    tmp_path_factory: pytest.TempPathFactory,
    lines: List[str],
    ends_with_newline: bool,
    by_blank_line: bool,
    part: int,
    read: int,
) -> None:
    """The same documents as ``reading.read_documents``, however the file is cut into parts."""
    name = "x.txt" if by_blank_line else "x.jsonl"
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(("\n".join(lines) + "\n" * ends_with_newline).encode())
    size, kept = path.stat().st_size, line_scan.READ_BYTES
    try:
        line_scan.READ_BYTES = read
        parts = [
            scan(path, begin, min(begin + part, size), by_blank_line)
            for begin in range(0, size, part)
        ]
    finally:
        line_scan.READ_BYTES = kept
    starts = joined(parts, by_blank_line).tolist() if parts else []
    split = SplitDocuments.blank_line if by_blank_line else SplitDocuments.line
    with path.open("rb") as raw:
        expected = list(read_documents(path, raw, split))
    assert starts == [document.offset for document in expected]
    assert [line_number(path, start) for start in starts] == [d.line for d in expected]
    content = path.read_bytes()
    for start, end, document in zip(starts, [*starts[1:], size], expected):
        assert content[start:end].rstrip() == document.content.rstrip()


def test_a_part_inside_a_long_line_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus that is one line would else be in memory once for every core."""
    monkeypatch.setattr(line_scan, "READ_BYTES", 1_000)
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"x" * 2_000_000)
    tracemalloc.start()
    try:
        part = scan(path, 1_000_000, 2_000_000, False)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert len(part.starts) == 0


def texts_of(path: Path, cache_dir: str | None = None) -> List[str]:
    (file,) = indexed([path], cache_dir)
    content = file.text.read_bytes()
    pieces = [content[start:end] for start, end in zip(file.starts, file.starts[1:])]
    if path.name.startswith("t"):
        return [piece.decode().rstrip() for piece in pieces]
    return [json.loads(piece)["text"] for piece in pieces]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_packed_files_are_unpacked_once(tmp_path: Path, packing: str) -> None:
    texts = [f"document {number}" for number in range(50)]
    content = write_jsonl(tmp_path / "plain.jsonl", texts).read_bytes()
    pack: Any = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[packing]
    path = tmp_path / f"c.jsonl{packing}"
    path.write_bytes(pack(content))
    assert texts_of(path) == texts
    copy = tmp_path / f".c.jsonl{packing}.text"
    assert copy.exists() == bool(packing)
    made = [p.stat().st_mtime_ns for p in tmp_path.glob(".c*")]
    assert texts_of(path) == texts
    assert [p.stat().st_mtime_ns for p in tmp_path.glob(".c*")] == made
    if packing:
        copy.write_bytes(b"cut off")
        assert texts_of(path) == texts
        path.write_bytes(pack(content)[:-20])
        with pytest.raises(UserError, match="packed file must be whole"):
            texts_of(path)


def test_an_index_follows_its_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["one", "two"])
    assert texts_of(path) == ["one", "two"]
    write_jsonl(path, ["one", "two", "three"])
    assert texts_of(path) == ["one", "two", "three"]
    write_jsonl(path, ["six", "two", "three"])  # of the same size
    os.utime(path, ns=(1, 1))
    assert find_index(path, None) is None
    assert texts_of(path) == ["six", "two", "three"]
    index_file = tmp_path / ".c.jsonl.index.npy"
    index_file.write_bytes(index_file.read_bytes()[:-9])  # a copy that was cut off
    assert texts_of(path) == ["six", "two", "three"]
    index_file.write_bytes(b"")
    assert texts_of(path) == ["six", "two", "three"]


def test_an_index_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "data" / "c.jsonl", ["one", "two"])
    assert texts_of(path, str(tmp_path / "cache")) == ["one", "two"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["c.jsonl"]
    assert len(list((tmp_path / "cache").glob("*.index.npy"))) == 1
    # A folder that cannot be written; access() of root says it can, unless the disk is read-only.
    monkeypatch.setattr(index.os, "access", lambda where, mode: mode != os.W_OK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_names(path, None)[-1].is_relative_to(tmp_path / "home")
    assert texts_of(path) == ["one", "two"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["c.jsonl"]
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="`--index-cache-dir` must be a folder that can be written"):
        texts_of(path, str(tmp_path / "taken"))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_packed_file_that_is_none_is_named(tmp_path: Path, packing: str) -> None:
    path = write_jsonl(tmp_path / f"c.jsonl{packing}", ["not packed at all"])
    with pytest.raises(UserError, match=f"packed file must be whole, but {path} is not"):
        texts_of(path)


def test_an_index_process_that_is_killed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["one"])
    with monkeypatch.context() as patch:
        patch.setattr(index, "scan", die)
        with pytest.raises(UserError, match="process that indexes must not be killed"):
            texts_of(path)
    assert texts_of(path) == ["one"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["one"] * 2_000)

    def save(stream: Any, numbers: np.ndarray) -> None:
        with open("/dev/full", "wb") as full:
            numbers.tofile(full)

    monkeypatch.setattr(index.np, "save", save)
    with pytest.raises(UserError, match=r"has room, but .* is not \(.*written\)"):
        texts_of(path)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_index_holds_no_file_open(tmp_path: Path) -> None:
    """A process may have 1,024 open files, a corpus more shards than that."""
    paths = [write_jsonl(tmp_path / f"{number}.jsonl", ["one", "two"]) for number in range(40)]
    files = indexed(paths, None)
    assert [file.num_documents for file in files] == [2] * 40
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [link for link in links if str(os.path.realpath(link)).startswith(str(tmp_path))]


def build(path: Path, results: "multiprocessing.Queue[int]") -> None:
    (file,) = indexed([path], None)
    results.put(file.num_documents)


def test_builders_that_race_all_get_the_index(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["x"] * 2_000)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    builders = [fork.Process(target=build, args=(path, results)) for _ in range(4)]
    for builder in builders:
        builder.start()
    assert [results.get(timeout=60) for _ in builders] == [2_000] * 4
    for builder in builders:
        builder.join()
    assert not list(tmp_path.glob(f".*{atomic.TEMPORARY_SUFFIX}"))


def unpack_slowly(path: Path, target: Path) -> None:
    if path.name.startswith("slow"):
        time.sleep(20)
    raise UserError("bad")


def test_a_mistake_does_not_wait_for_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking takes minutes a file; Ctrl-C comes the same way."""
    paths = [write_jsonl(tmp_path / name, ["one"]) for name in ("bad.jsonl.gz", "slow.jsonl.gz")]
    monkeypatch.setattr(index, "_unpack", unpack_slowly)
    monkeypatch.setattr(index, "available_cores", lambda: 2)
    start = time.monotonic()
    with pytest.raises(UserError, match="bad"):
        indexed(paths, None)
    assert time.monotonic() - start < 10


def test_machines_with_copies_of_their_own_may_share_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's copy lies at the same path and has another time."""
    path = write_jsonl(tmp_path / "data" / "c.jsonl", ["one", "two"])
    locked = index._locked

    @contextmanager
    def then_the_other(folder: Path) -> Iterator[None]:
        with locked(folder):
            yield
        (file,) = folder.glob("*.index.npy")
        numbers = np.load(file)
        numbers[2] += 1
        np.save(file, numbers)

    monkeypatch.setattr(index, "_locked", then_the_other)
    assert texts_of(path, str(tmp_path / "cache")) == ["one", "two"]
    assert find_index(path, str(tmp_path / "cache")) is None


def test_a_folder_is_free_when_its_indexes_are_made(tmp_path: Path) -> None:
    """The pool that made them lives on for the next folder, and may hold nothing of this one."""
    sleeper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with index._locked(tmp_path):
        sleeper.start()
    try:
        with (tmp_path / ".index.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        sleeper.kill()
        sleeper.join()


def stop_before_the_end(path: Path) -> None:
    def hang(*_: object) -> None:
        (path.parent / "reached").touch()
        time.sleep(60)

    index.np.save = hang  # type: ignore[assignment]
    indexed([path], None)


def test_a_killed_builder_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["x"] * 10)
    builder = multiprocessing.get_context("fork").Process(target=stop_before_the_end, args=(path,))
    builder.start()
    while not (tmp_path / "reached").exists():
        time.sleep(0.01)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(tmp_path.glob(f".*{atomic.TEMPORARY_SUFFIX}"))
    assert texts_of(path) == ["x"] * 10
    assert not list(tmp_path.glob(f".*{atomic.TEMPORARY_SUFFIX}"))


def test_corpora_are_numbered_through_their_shards(tmp_path: Path) -> None:
    for shard in range(3):
        write_jsonl(
            tmp_path / "train" / f"{shard:02d}" / "b.jsonl", [f"b{shard}{n}" for n in (0, 1)]
        )
    write_jsonl(tmp_path / "train" / "01" / "a.jsonl", ["a0", "a1", "a2"])
    corpora = open_corpora(str(tmp_path), "train", None, False)
    assert corpora.names == ["a", "b"]
    assert corpora.num_documents.tolist() == [3, 6]
    places = corpora.places(np.array([1, 0, 1, 1]), np.array([5, 2, 0, 3]))
    found = []
    for file, start, size in zip(places.file, places.start, places.size):
        content = Path(places.files[file][1]).read_bytes()[start : start + size]
        found.append(json.loads(content)["text"])
    assert found == ["b21", "a2", "b00", "b11"]
    assert corpora.fingerprint() == open_corpora(str(tmp_path), "train", None, False).fingerprint()


def test_parse_is_what_prepare_uses() -> None:
    """One parser for both ways into a model: a change of one is a change of both."""
    from metaseq_plugin.data.documents import parsing
    from metaseq_plugin.data.prepare import corpus_tokens
    from metaseq_plugin.data.streaming import tokens

    assert tokens.parse_fields is parsing.parse_fields
    assert corpus_tokens.parse is parsing.parse
