"""The files of a ledger: appended line by line, torn, foreign, of a later version; the tally right after a kill."""

import errno
import json
import logging
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from metaseq_plugin.ledger.files import EVENTS, UPDATES, read_ledger
from metaseq_plugin.ledger.journal import MAX_HELD, Journal
from metaseq_plugin.ledger.tally import SIZE, SLOT_BYTES, Tally, TallyFile, read_tally
from metaseq_plugin.storage.json_lines import Lines, parse_row, read_lines

FORK = multiprocessing.get_context("fork")
MOST = 10_000_000  # updates of a process that is killed long before


def in_child(act: Callable[..., None], *args: Any) -> Any:
    process = FORK.Process(target=act, args=args)
    process.start()
    return process


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in read_lines(path)]


# Lines.


def test_a_line_is_there_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.jsonl"
    with Lines(path) as lines:
        lines.append({"time": 1.5, "what": "ä", "of": float("nan"), "in": [float("inf")]}, True)
        assert rows(path) == [{"time": 1.5, "what": "ä", "of": None, "in": [None]}]


def test_a_torn_line_is_ended_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"time": 1, "kind": "save"}\n{"time": 2, "ki')
    with Lines(path) as lines:
        lines.append({"time": 3}, durable=False)
        lines.append({"time": 4}, durable=False)
    found = [parse_row(line) for line in read_lines(path)]
    assert found == [{"time": 1, "kind": "save"}, None, {"time": 3}, {"time": 4}]


@pytest.mark.parametrize(
    "line",
    [b"[1]", b"nonsense", b'{"kind": "save"}', b'{"time": true}', b'{"time": 1e999}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_row_of_ours(line: bytes) -> None:
    assert parse_row(line) is None


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")  # which is read without end
    os.mkfifo(tmp_path / "pipe")
    for name in ("full", "pipe"):
        with pytest.raises(OSError, match="not a file"):
            read_lines(tmp_path / name)


# The ledger.


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == ([], [], None, 0, 1)


def test_foreign_lines_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    folder.mkdir()
    (folder / EVENTS).write_bytes(
        b'{"time": 1, "kind": "note", "text": "a"}\nhello\n{"time": 2}\n{"time": 3, "kind": "sa'
    )
    (folder / UPDATES).write_bytes(
        b'{"time": 1, "update": 2, "start": 0, "updates": 2}\n{"time": 2, "update": 4}\n\xff\n'
    )
    found = read_ledger(tmp_path)
    assert found.events == [{"time": 1, "kind": "note", "text": "a"}]
    assert [row["update"] for row in found.updates] == [2]
    assert found.foreign == 5
    assert not found.is_newer


def test_a_start_has_what_was_known_when_it_was_ready(tmp_path: Path) -> None:
    events = [
        {"time": 1, "kind": "start", "start": 0, "update": 0, "format": 1},
        {"time": 2, "kind": "start", "start": 1, "update": 0, "format": 9},
        {"time": 3, "kind": "ready", "start": 1, "update": 4, "seconds": 2, "num_parameters": 7},
    ]
    with Lines(tmp_path / "ledger" / EVENTS) as lines:
        for event in events:
            lines.append(event, durable=False)
    found = read_ledger(tmp_path)
    assert found.starts == [events[0], {**events[1], "num_parameters": 7}]
    assert found.format == 9
    assert found.is_newer


# The tally.


def count(path: Path) -> None:
    file = TallyFile(path)
    for n in range(MOST):
        file.write(Tally(3, 0, n, n, seen=float(n), accounts=(float(n),) * 6))


def test_the_tally_is_whole_whenever_its_process_is_killed(tmp_path: Path) -> None:
    path, last = tmp_path / "tally", []
    for kill in range(20):
        process = in_child(count, path)
        while (read_tally(path) or Tally(0)).update < 1 + 100 * kill:
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = read_tally(path)
        assert found is not None
        n = found.update
        assert found == Tally(3, 0, n, n, seen=float(n), accounts=(float(n),) * 6)
        last.append(n)
        path.unlink()
    assert len(set(last)) > 1, "killed at different moments"


def test_a_slot_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "tally"
    file = TallyFile(path)
    file.write(Tally(0, update=1))
    file.write(Tally(0, update=2))
    file.write(Tally(0, update=3))  # over the first one
    raw = bytearray(path.read_bytes())
    place = SIZE - SLOT_BYTES  # of the slot with an odd number
    raw[place : place + 8] = (1).to_bytes(8, "little")  # as before it was finished
    path.write_bytes(raw)
    found = read_tally(path)
    assert found is not None
    assert found.update == 2


@pytest.mark.parametrize("content", [b"", b"x" * SIZE, b"metaseq tally 1\n"])
def test_a_file_that_is_no_tally(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tally").write_bytes(content)
    assert read_tally(tmp_path / "tally") is None


def test_a_tally_of_nothing_yet(tmp_path: Path) -> None:
    TallyFile(tmp_path / "tally")
    assert (tmp_path / "tally").stat().st_size == SIZE
    assert read_tally(tmp_path / "tally") is None


# The journal on a disk that does not say that it has what it was given.


class DroppingDisk:
    """``os.fsync`` that fails ``failures`` times, and drops the last line of a file as the kernel may."""

    def __init__(self, path: Path, failures: int) -> None:
        self.path, self.failures, self.fsync = path, failures, os.fsync

    def __call__(self, descriptor: int) -> None:
        if not self.failures:
            self.fsync(descriptor)
            return
        self.failures -= 1
        whole = self.path.read_bytes()
        start = whole[:-1].rfind(b"\n") + 1
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(len(whole) - start))
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_line_that_the_disk_may_have_lost_is_written_again_and_once(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "ledger" / EVENTS
    with Journal(events, tmp_path / "ledger" / UPDATES) as journal:
        journal.event({"time": 1, "kind": "start", "start": 0, "update": 0})
        disk = DroppingDisk(events, failures)
        monkeypatch.setattr(os, "fsync", disk)
        for n in range(failures):
            journal.event({"time": 2 + n, "kind": "save", "start": 0, "update": n})
            assert journal.unwritten == n + 1
        assert disk.failures == 0
        journal.event({"time": 9, "kind": "end", "start": 0, "update": 9})
        assert journal.unwritten == 0
    found = read_ledger(tmp_path)
    assert [event["time"] for event in found.events] == [1, *range(2, 2 + failures), 9]
    assert found.foreign == 0


def test_what_somebody_else_appended_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row = tmp_path / "a.jsonl", {"time": 1, "kind": "save"}
    with Lines(path) as lines, Lines(path) as others:
        monkeypatch.setattr(os, "fsync", DroppingDisk(path, 1))
        with pytest.raises(OSError, match="Input/output"):
            lines.append(row, durable=True)
        others.append({"time": 2, "kind": "note"}, durable=False)
        lines.append(row, durable=True)
        lines.append(row, durable=True)  # another one that is alike
    assert [found["time"] for found in rows(path)] == [1, 2, 1]


# The journal on a disk that is full.


def limit(num_bytes: int) -> None:
    """From now on, no file of this process grows beyond so many bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))


def fill_the_disk(folder: Path, num_lines: int) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    warned: list[str] = []
    logging.getLogger("metaseq_plugin.ledger.journal").addFilter(
        lambda record: bool(warned.append(record.getMessage()))  # type: ignore[func-returns-value]
    )
    with Journal(folder / EVENTS, folder / UPDATES) as journal:
        journal.event({"time": 0, "kind": "start", "start": 0, "update": 0})
        limit((folder / EVENTS).stat().st_size + 10)
        for n in range(num_lines):
            journal.event({"time": n, "kind": "save", "start": 0, "update": n})
        assert journal.unwritten == num_lines
        assert [words.split(". ")[0] for words in warned] == [
            f"The ledger in {folder} cannot be written (File too large)"
        ]
        limit(unlimited)
        journal.numbers({"time": num_lines, "start": 0, "update": 7, "updates": 1})
        assert journal.unwritten == 0


@pytest.mark.parametrize("num_lines", [3, MAX_HELD + 5])
def test_a_full_disk_delays_lines_and_what_was_lost_is_said(tmp_path: Path, num_lines: int) -> None:
    process = in_child(fill_the_disk, tmp_path / "ledger", num_lines)
    process.join()
    assert process.exitcode == 0
    found = read_ledger(tmp_path)
    lost = max(0, num_lines - MAX_HELD)
    kept = [event["update"] for event in found.of("save")]
    assert kept == list(range(lost, num_lines))
    assert [row["update"] for row in found.updates] == [7]
    assert found.foreign == 1  # the line that was cut
    missing = [(event["lines"], event["reason"]) for event in found.of("missing")]
    assert missing == ([(lost, "File too large")] if lost else [])


def test_fields_of_another_type_do_not_stop_the_next_start(tmp_path: Path) -> None:
    with Lines(tmp_path / "ledger" / EVENTS) as lines:
        lines.append({"time": 1.0, "kind": "start", "start": 0, "update": 0}, True)
        lines.append({"time": 2.0, "kind": "ready", "start": [0]}, True)
    ledger = read_ledger(tmp_path)
    assert [event["start"] for event in ledger.events] == [0, None]
