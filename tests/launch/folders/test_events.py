"""Events: one line each, whoever writes, however a writer ends."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from metaseq_plugin.launch.folders.events import FILE, read_events, record
from metaseq_plugin.launch.spec import LAUNCH


def file_of(save_dir: Path) -> Path:
    (save_dir / LAUNCH).mkdir(parents=True, exist_ok=True)
    return save_dir / LAUNCH / FILE


def test_an_event_is_one_line_with_its_time_kind_and_fields(tmp_path: Path) -> None:
    before = time.time()
    record(tmp_path / "a", "resumed", job="17", update=2000, where=Path("x"))
    (line,) = file_of(tmp_path / "a").read_text().splitlines()
    event = json.loads(line)
    assert before - 0.001 <= event.pop("time") <= time.time() + 0.001
    assert event == {"kind": "resumed", "job": "17", "update": 2000, "where": "x"}


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == ([], 0)


def write_many(save_dir: Path, writer: int) -> None:
    for number in range(100):
        record(save_dir, "note", writer=writer, number=number, padding="x" * 500)


def test_four_writers_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events, foreign = read_events(tmp_path)
    assert foreign == 0
    for n in range(4):
        assert [e["number"] for e in events if e["writer"] == n] == list(range(100))


def test_a_torn_last_line_is_counted_and_the_next_event_is_whole(tmp_path: Path) -> None:
    record(tmp_path, "submitted", job="1")
    whole = file_of(tmp_path).read_bytes()
    with file_of(tmp_path).open("ab") as stream:
        stream.write(b'{"time": 1795804419.2, "kind": "star')
    assert [e["kind"] for e in read_events(tmp_path).events] == ["submitted"]
    assert read_events(tmp_path).foreign == 1
    record(tmp_path, "finished", job="1")
    events, foreign = read_events(tmp_path)
    assert [e["kind"] for e in events] == ["submitted", "finished"]
    assert foreign == 1
    assert file_of(tmp_path).read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "line",
    [
        b"slurmstepd: error",
        b"[1, 2]",
        b'"started"',
        b'{"kind": "started"}',
        b'{"time": 1.0}',
        b'{"time": "now", "kind": "started"}',
        b'{"time": true, "kind": "started"}',
        b'{"time": NaN, "kind": "started"}',
        b'{"time": Infinity, "kind": "started"}',
        b'{"time": 1.0, "kind": 3}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_foreign_lines_are_counted_not_read(tmp_path: Path, line: bytes) -> None:
    file_of(tmp_path).write_bytes(line + b'\n\n{"time": 1.0, "kind": "of tomorrow"}\n')
    assert read_events(tmp_path) == ([{"time": 1.0, "kind": "of tomorrow"}], 1)
