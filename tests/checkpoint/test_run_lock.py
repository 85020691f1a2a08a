"""One run at a time in a save-dir, and a lock whose run was killed stops nobody."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.checkpoint import run_lock
from metaseq_plugin.checkpoint.run_lock import LOCK_FILE, alone_in, process_start, this_process
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.peers import ALONE
from metaseq_plugin.storage.locks import Lock
from tests.checkpoint.cut_sets import run_ranks
from tests.fairseq_runs import run_fairseq, training_arguments, write_data

FORK = multiprocessing.get_context("fork")


def hold(folder: Path, is_held: Any) -> None:
    with alone_in(folder, ALONE):
        is_held.set()
        time.sleep(600)


@pytest.fixture
def other_run(tmp_path: Path) -> Any:
    """A process that holds ``tmp_path/run``, killed at the end of the test."""
    is_held = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path / "run", is_held))
    process.start()
    assert is_held.wait(30)
    yield process
    process.kill()
    process.join()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught, alone_in(folder, ALONE):
        pass
    return str(caught.value)


def test_freed_at_the_end_and_on_errors(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with alone_in(folder, ALONE):
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not (tmp_path / "a").exists()

    def fail() -> None:
        with alone_in(folder, ALONE):
            (folder / "checkpoint_last.pt").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in folder.iterdir()] == ["checkpoint_last.pt"]


def test_a_second_run_is_refused_and_touches_nothing(tmp_path: Path, other_run: Any) -> None:
    before = (tmp_path / "run" / LOCK_FILE).read_bytes()
    arguments = training_arguments(write_data(tmp_path / "data"), tmp_path / "run")
    ended = run_fairseq("train", *arguments, "--max-update", 1, log_dir=tmp_path)
    assert ended.status == 2, ended.output
    assert f"is in use by process {other_run.pid} of " in ended.last_line
    assert ended.last_line.startswith("fairseq-train: error: `--save-dir` must be of one run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_FILE]
    assert (tmp_path / "run" / LOCK_FILE).read_bytes() == before
    saves_nothing = run_fairseq(
        "train", *arguments, "--no-save", "--max-update", 1, log_dir=tmp_path
    )
    assert saves_nothing.status == 0, saves_nothing.output


def test_all_ranks_hear_of_the_other_run(tmp_path: Path, other_run: Any) -> None:
    def begin(ranks: Any) -> None:
        with alone_in(tmp_path / "run", ranks):
            pass

    sentences = {str(error) for error in run_ranks(2, begin)}
    assert len(sentences) == 1
    assert "in use by" in sentences.pop()


def test_a_killed_runs_lock_stops_nobody(tmp_path: Path, other_run: Any) -> None:
    os.kill(other_run.pid, signal.SIGKILL)
    other_run.join()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with alone_in(tmp_path / "run", ALONE):
        pass
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_worker_that_outlives_its_run_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def run_with_worker(worker: Any) -> None:
        with alone_in(folder, ALONE):
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            worker.value = pid
            os.kill(os.getpid(), signal.SIGKILL)

    worker = FORK.Value("i", 0)
    process = FORK.Process(target=run_with_worker, args=(worker,))
    process.start()
    process.join()
    try:
        with alone_in(folder, ALONE):
            pass
    finally:
        os.kill(worker.value, signal.SIGKILL)


def test_where_the_file_system_has_no_locks_the_process_counts(
    tmp_path: Path, other_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "try_lock", lambda stream: Lock.unknown)
    assert f"process {other_run.pid} of" in refusal(tmp_path / "run")
    lock = tmp_path / "run" / LOCK_FILE
    reused = json.loads(lock.read_text())
    other_run.kill()
    other_run.join()
    assert process_start(other_run.pid) is None
    reused["process"] = os.getpid()  # the number now is another process's, which started later
    lock.write_text(json.dumps(reused))
    with alone_in(tmp_path / "run", ALONE):
        pass


@pytest.mark.parametrize("is_alive", [True, False])
def test_of_another_host_the_beats_count(
    tmp_path: Path, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("WATCH_SECONDS", 0.5), ("LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(run_lock, name, seconds)
    elsewhere = this_process()._replace(host="node7", boot="another")
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps(elsewhere._asdict()))
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    ended = threading.Event()
    with lock.open("r+b") as stream:
        beats = threading.Thread(target=run_lock.beat, args=(stream, ended))
        if is_alive:
            beats.start()
            said = refusal(tmp_path)
            ended.set()
            beats.join()
            assert "of node7 since" in said
            assert f"remove {lock}" in said
            assert json.loads(lock.read_text())["host"] == "node7"
            return
    with alone_in(tmp_path, ALONE):
        pass
    assert not lock.exists()


def test_the_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    with alone_in(tmp_path, ALONE):
        before, deadline = (tmp_path / LOCK_FILE).stat().st_mtime_ns, time.monotonic() + 30
        while (tmp_path / LOCK_FILE).stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"{}",
        b"\xff\xfe",
        json.dumps({**this_process()._asdict(), "process": "x"}).encode(),
        json.dumps({**this_process()._asdict(), "process": -1, "started": 10**30}).encode(),
    ],
)
def test_a_strangers_lock_file_is_only_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with alone_in(tmp_path, ALONE):
        pass


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_is_refused_unfollowed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "precious").write_text("weights")
    folder = tmp_path / "run"
    folder.mkdir()
    if kind == "link":
        (folder / LOCK_FILE).symlink_to(tmp_path / "precious")
    elif kind == "fifo":
        os.mkfifo(folder / LOCK_FILE)
    else:
        (folder / LOCK_FILE).mkdir()
    assert "`--save-dir` must be a folder that can be written" in refusal(folder)
    assert (tmp_path / "precious").read_text() == "weights"
