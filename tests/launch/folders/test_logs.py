"""The logs of a run: last lines, following over restarts, and the last error of all ranks."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import logs
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.last_words import errors_of, last_error
from tests.launch.folders.run_folders import WITHOUT_PACKAGE, make_run, record_at, write_log

PROGRAM = (
    f"{WITHOUT_PACKAGE} import argparse; from metaseq_plugin.launch.folders import logs;"
    "parser = argparse.ArgumentParser(); logs.add_arguments(parser); logs.run(parser.parse_args(sys.argv[1:]))"
)
TRACEBACK = """2026-11-27 18:50:00 | INFO | train_inner | loss=3
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    first()
ValueError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in step
    second()
FloatingPointError: loss is not finite
words after it"""


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def shown(capsys: Any, *words: object) -> str:
    logs.run(arguments(*words))
    text: str = capsys.readouterr().out
    return text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", log=[f"line {n}" for n in range(50)])


@pytest.mark.parametrize(("lines", "first"), [(0, 50), (1, 49), (20, 30), (50, 0), (99, 0)])
def test_the_last_lines(run: Path, capsys: Any, lines: int, first: int) -> None:
    text = shown(capsys, run, "--lines", lines)
    assert text.splitlines() == [f"line {n}" for n in range(first, 50)]


def test_twenty_lines_of_rank_0_where_nothing_else_is_said(run: Path, capsys: Any) -> None:
    write_log(run, ["another"], rank=3)
    assert len(shown(capsys, run).splitlines()) == 20
    assert shown(capsys, run, "--rank", 3) == "another\n"


def test_long_lines_are_read_as_far_back_as_needed(run: Path, capsys: Any) -> None:
    long = ["x" * 100_000 for _ in range(5)]
    write_log(run, long)
    assert shown(capsys, run, "--lines", 6).splitlines() == ["line 49", *long]


def test_what_a_terminal_would_obey_is_spelled_out(run: Path, capsys: Any) -> None:
    write_log(run, ["a\tb\x1b[2Jc \udce9".encode("utf-8", "surrogateescape").decode("latin-1")])
    assert shown(capsys, run, "--lines", 1).startswith("a\tb\\x1b[2Jc ")


def test_the_only_run_below_a_folder_is_meant(run: Path, capsys: Any) -> None:
    assert shown(capsys, run.parent, "--lines", 1) == "line 49\n"
    make_run(run.parent / "other")
    with pytest.raises(UserError, match=r"RUN must be one run folder, but .* holds 2"):
        shown(capsys, run.parent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "7"], r"`--rank` must be a rank with a log \(0 to 1\), but is 7"),
        (["--rank", "-1"], r"`--rank` must be 0 or more, but is -1"),
        (["--lines", "-1"], r"`--lines` must be 0 or more, but is -1"),
    ],
)
def test_bad_numbers_are_refused(run: Path, words: list[str], said: str) -> None:
    write_log(run, ["x"], rank=1)
    with pytest.raises(UserError, match=said):
        logs.run(arguments(run, *words))


def test_a_run_that_has_not_begun_has_no_logs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RUN must have begun to have logs"):
        logs.run(arguments(make_run(tmp_path / "run")))


@pytest.fixture
def follower(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    make_run(tmp_path / "run")
    command = [sys.executable, "-u", "-c", PROGRAM, str(tmp_path / "run"), "-f", "--lines", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def read_lines(process: "subprocess.Popen[str]", number: int) -> list[str]:
    """The next lines that the process prints; one that does not come fails the test."""
    assert process.stdout is not None
    killer = threading.Timer(60, process.kill)
    killer.start()
    lines = [process.stdout.readline().rstrip("\n") for _ in range(number)]
    killer.cancel()
    return lines


def test_following_waits_for_the_log_and_goes_on_over_restarts(
    tmp_path: Path, follower: Any
) -> None:
    run = tmp_path / "run"
    time.sleep(0.5)  # there is no log yet
    log = write_log(run, ["one", "two", "three"])
    assert read_lines(follower, 2) == ["two", "three"]
    write_log(run, ["four"])
    assert read_lines(follower, 1) == ["four"]
    other = log.with_name("new")
    other.write_text("five\n")
    os.replace(other, log)  # another file of this name
    assert read_lines(follower, 1) == ["five"]
    log.write_text("6\n")  # begun anew
    assert read_lines(follower, 1) == ["6"]
    write_log(run, ["last"])
    record(run, "finished")
    assert read_lines(follower, 1) == ["last"]
    assert follower.wait(60) == 0
    assert follower.stderr.read() == ""


def test_ctrl_c_ends_following_without_a_word(tmp_path: Path, follower: Any) -> None:
    write_log(tmp_path / "run", ["one"])
    assert read_lines(follower, 1) == ["one"]
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0
    assert follower.stderr.read() == ""


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", None),
        ("2026 | INFO | fairseq.trainer | no error: all well", None),
        (
            TRACEBACK,
            'Traceback (most recent call last):\n  File "b.py", line 2, in step\n    second()\n'
            "FloatingPointError: loss is not finite",
        ),
        (
            f"{TRACEBACK}\nfairseq-train: error: `--lr` must be positive, but is -1. Set another.\nbye",
            "fairseq-train: error: `--lr` must be positive, but is -1. Set another.",
        ),
        (
            'x\nFatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File "a.py"\n\nmore',
            'Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File "a.py"',
        ),
        (
            "Traceback (most recent call last):\n  File",
            "Traceback (most recent call last):\n  File",
        ),
    ],
)
def test_the_last_error_of_a_log(log: str, error: str | None) -> None:
    assert last_error(log.encode()) == error


def test_a_traceback_of_thousands_of_lines_is_cut() -> None:
    log = "Traceback (most recent call last):\n" + "  File\n" * 5000 + "RecursionError: too deep"
    lines = (last_error(log.encode()) or "").split("\n")
    assert len(lines) == 61
    assert lines[30] == "  …"
    assert lines[-1] == "RecursionError: too deep"


def test_of_all_ranks_the_one_that_began_it_stands_first(tmp_path: Path, capsys: Any) -> None:
    run = make_run(tmp_path / "run")
    lost = "fairseq-train: error: Another rank of this run ended, so this one must; see its output for the reason."
    write_log(run, ["well", lost], rank=0)
    write_log(run, ["well"], rank=2)
    write_log(run, TRACEBACK.split("\n"), rank=10)
    record_at(run, -130, "failed", rank=10, node="n2", update=3, reason="exit status 1")
    record_at(run, -120, "restarting", attempt=1)
    assert shown(capsys, run, "--errors").splitlines() == [
        "2m failed (update 3, rank 10, node n2): exit status 1",
        "rank 10:",
        "  Traceback (most recent call last):",
        '    File "b.py", line 2, in step',
        "      second()",
        "  FloatingPointError: loss is not finite",
        "rank 0:",
        f"  {lost}",
    ]


def test_that_a_run_was_given_up_stands_behind_the_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for seconds, kind, reason in (
        (-130, "failed", "a"),
        (-120, "failed", "b"),
        (-60, "gave_up", "c"),
    ):
        record_at(run, seconds, kind, reason=reason)
    assert errors_of(run) == "2m failed: b\n1m gave_up: c"


def test_no_error_is_said(run: Path) -> None:
    assert errors_of(run) == f"no error in the logs of {run} (ranks: 1)"
