"""What `metaseq launch status` shows of runs, and of folders that are broken or none."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import status
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.reading import find_runs
from metaseq_plugin.launch.folders.standing import Standing, standings
from metaseq_plugin.launch.folders.status import states_of
from metaseq_plugin.launch.folders.table import brief_number, draw, duration
from tests.launch.folders.run_folders import (
    FAILED,
    STARTED,
    SUBMITTED,
    WITHOUT_PACKAGE,
    calls,
    fake,
    json_line,
    make_copies,
    make_run,
    record_at,
    slurm_says,
)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    status.add_arguments(parser)
    return parser.parse_args(list(words))


def shown(capsys: Any, *words: object) -> str:
    status.run(arguments(*map(str, words)))
    text: str = capsys.readouterr().out
    return text


def test_the_table_fits_80_columns_and_says_more_on_wider_ones(
    tmp_path: Path, programs: Path, capsys: Any, monkeypatch: Any
) -> None:
    fake(programs, "squeue", 'printf "17|RUNNING\\n18|FAILED\\n"')
    for name, job, events in (
        ("lr0.0006.bs524288.seed1", "17", [STARTED]),
        ("lr0.0012.bs524288.seed2", "18", [STARTED, FAILED]),
    ):
        make_run(tmp_path / name, [], job, log=[json_line(40)], max_update=572204)
        for kind, fields in events:
            record_at(tmp_path / name, -185, kind, **fields)
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, tmp_path).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "2 runs: 1 running, 1 failed"
    assert lines[2].split() == [
        "run",
        "state",
        "update",
        "loss",
        "tok/s",
        "ETA",
        "restarts",
        "last",
        "event",
    ]
    assert lines[3].split()[1:] == [
        "running",
        "40/572204",
        "8.500",
        "1.02k",
        "3d07h",
        "0",
        "3m",
        "started",
    ]
    assert lines[4].split()[1:7] == ["failed", "30/572204", "8.500", "-", "-", "0"]
    assert lines[6].startswith(
        "lr0.0012.bs524288.seed2: Its job 18 ended as FAILED. loss is not finite"
    )
    monkeypatch.setenv("COLUMNS", "160")
    lines = shown(capsys, tmp_path).splitlines()
    assert lines[3].startswith("lr0.0006.bs524288.seed1  running")
    assert lines[4].endswith("3m failed (rank 1, node n2): loss is not finite")


def test_json_has_all_of_it(tmp_path: Path, programs: Path, capsys: Any) -> None:
    slurm_says(programs, "RUNNING")
    run = make_run(tmp_path / "run", [STARTED], "17", log=[json_line(40, float("nan"))])
    (row,) = json.loads(shown(capsys, run, "--json"), parse_constant=pytest.fail)
    assert row.pop("last_event")["kind"] == "started"
    assert row == {
        "run": "run", "save_dir": str(run), "state": "running", "job": "17", "update": 40, "max_update": 100,
        "loss": "nan", "tokens_per_second": 1024.0, "eta_seconds": 30.0, "restarts": 0, "requeues": 0, "problem": "",
    }  # fmt: skip


def test_an_event_from_the_future_is_shown_as_such(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    slurm_says(programs, "RUNNING")
    run = make_run(tmp_path / "run", [], "17")
    record_at(run, 7205, "started")
    assert "in 2h00m started" in shown(capsys, run)


def test_what_a_terminal_would_obey_is_spelled_out(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    slurm_says(programs, "RUNNING")
    run = make_run(tmp_path / "a\x1b[31m", [("started", {"reason": "\x1b]0;x\x07"})], "17")
    text = shown(capsys, run)
    assert "\x1b" not in text
    assert "\\x1b" in text


def test_one_broken_run_of_two_hundred_does_not_hide_the_others(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    run = make_run(tmp_path / "run000", [SUBMITTED, STARTED, ("finished", {})], "17")
    make_copies(tmp_path, [f"run{number:03}" for number in range(1, 200)], run)
    (tmp_path / "run117/launch/run.json").write_text('{"version": 1')
    (tmp_path / "run118/launch/run.json").write_text('{"version": 9}')
    (tmp_path / "run119/launch/events.jsonl").unlink()
    (tmp_path / "run119/launch/events.jsonl").mkdir()
    with (tmp_path / "run120/launch/events.jsonl").open("a") as stream:
        stream.write('{"time": 1, "kin')
    text = shown(capsys, tmp_path)
    assert text.startswith("200 runs: 199 finished, 1 unknown\n")
    flat = " ".join(text.split())
    assert "run117: " in flat
    assert "run.json must be a complete, readable .json file" in flat
    assert "must be of version 1 or earlier, but is of 9." in flat
    assert "events.jsonl must be readable, but is not (not a file)." in flat
    assert "run120: 1 lines of its events are torn, or no events." in flat
    assert calls(programs, "squeue") == []


def test_200_running_runs_are_one_question(tmp_path: Path, programs: Path) -> None:
    jobs = [f"17_{number}" for number in range(200)]
    fake(programs, "squeue", "\n".join(f'echo "{job}|RUNNING"' for job in jobs))
    runs = make_copies(tmp_path, jobs, make_run(tmp_path / "run", [STARTED]))
    for run in runs:
        text = json.dumps({"id": run.name, "executor": "slurm", "host": "login", "time": 0})
        (run / "launch/jobs.jsonl").write_text(f"{text}\n")
    assert set(states_of(runs).values()) == {"running"}
    assert len(calls(programs, "squeue")) == 1


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    rows, _ = standings([make_run(tmp_path / "a/run"), make_run(tmp_path / "b/run")])
    assert [row.run for row in rows] == ["a/run", "b/run"]


def test_runs_are_found_below_a_folder_once_each(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("sweep/b/x", "sweep/a", "sweep/b/w")]
    (tmp_path / "sweep/launch/submitit").mkdir(parents=True)  # of an array
    (tmp_path / "sweep/file").touch()
    assert find_runs([tmp_path / "sweep", runs[0]]) == [runs[1], runs[2], runs[0]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nowhere",
            "RUN must be a run folder or a folder of run folders, but .*nowhere is not there",
        ),
        ("a" * 300, r"RUN must be a folder that can be read, but .* cannot \(File name too long\)"),
        ("file", "RUN must be a run folder or a folder of run folders, but .*file is a file"),
        (
            "empty",
            r"RUN must be a run folder or a folder of run folders, but .*empty has no launch/run\.json",
        ),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty/launch").mkdir(parents=True)
    with pytest.raises(UserError, match=said):
        status.run(arguments(str(tmp_path / name)))


def test_a_broken_run_alone_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "launch/run.json").write_text("{")
    with pytest.raises(UserError, match="must be a complete, readable"):
        status.run(arguments(str(run)))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_bad_seconds_are_refused(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(UserError, match=r"`--watch` must be 0\.1 to 86400 seconds"):
        status.run(arguments(str(make_run(tmp_path)), "--watch", seconds))


def test_watching_looks_again_until_ctrl_c(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    run = make_run(tmp_path / "run")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        record(run, "finished")
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    text = shown(capsys, run, "--watch", "3")
    assert slept == [3, 3]
    assert [line for line in text.splitlines() if line.startswith("1 run:")] == [
        "1 run: 1 new", "1 run: 1 finished",
    ]  # fmt: skip


def test_a_reader_that_has_gone_ends_it_quietly(tmp_path: Path) -> None:
    make_copies(tmp_path, [f"run{number}" for number in range(50)], make_run(tmp_path / "run"))
    program = (
        "import argparse; from metaseq_plugin.launch.folders import status;"
        "parser = argparse.ArgumentParser(); status.add_arguments(parser);"
        "status.run(parser.parse_args(sys.argv[1:]))"
    )
    words = shlex.join([sys.executable, "-c", WITHOUT_PACKAGE + program, str(tmp_path)])
    command = ["bash", "-c", f"{words} | true; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 120)  # 120: Python could not flush


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h00m"), (86_399, "23h59m"),
     (86_400, "1d00h"), (33 * 86_400 + 7200, "33d02h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (512.4, "512"), (1024, "1.02k"), (104_000, "104k"), (1_234_567, "1.23M")],
)
def test_numbers(value: float, text: str) -> None:
    assert brief_number(value) == text


def test_more_problems_than_a_screen_holds_are_counted() -> None:
    rows = [Standing(f"run{n}", Path("."), "failed", problem="Gone.") for n in range(25)]
    assert "… and 5 more; --json has all of them." in draw(rows, 80, now=0.0)
