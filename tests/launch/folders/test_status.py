"""How runs stand, by their events, their jobs and their logs, and how that is shown."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import status
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.jobs_file import add_job, last_job
from metaseq_plugin.launch.folders.reading import find_runs
from metaseq_plugin.launch.folders.standing import Standing, standings
from metaseq_plugin.launch.folders.status import state_of, states_of
from metaseq_plugin.launch.folders.table import brief_number, draw, duration
from tests.launch.folders.run_folders import (
    WITHOUT_PACKAGE,
    calls,
    fake,
    json_line,
    make_copies,
    make_run,
    record_at,
)

SUBMITTED: tuple[str, Mapping[str, Any]] = ("submitted", {"job": "17"})
STARTED: tuple[str, Mapping[str, Any]] = ("started", {"job": "17"})
FAILED: tuple[str, Mapping[str, Any]] = (
    "failed", {"rank": 1, "node": "n2", "update": 30, "reason": "loss is not finite"},
)  # fmt: skip


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    fake(folder, "squeue", "true")
    fake(folder, "sacct", "true")
    return folder


def slurm_says(programs: Path, state: str) -> None:
    fake(programs, "squeue", f'echo "17|{state}"' if state else "true")


@pytest.mark.parametrize(
    ("events", "slurm", "state"),
    [
        ([], "", "failed"),  # sbatch took it, and it is gone
        ([SUBMITTED], "PENDING", "queued"),
        ([SUBMITTED], "CONFIGURING", "queued"),
        ([SUBMITTED], "RUNNING", "running"),
        ([SUBMITTED, STARTED], "RUNNING", "running"),
        ([SUBMITTED, STARTED], "COMPLETING", "running"),
        ([SUBMITTED, STARTED, FAILED], "RUNNING", "running"),  # about to start again
        ([SUBMITTED, STARTED, ("saved_and_requeued", {})], "PENDING", "queued"),
        ([SUBMITTED, STARTED, ("preempted", {})], "REQUEUED", "queued"),
        ([SUBMITTED, STARTED, ("saved_and_requeued", {})], "", "failed"),  # requeued, and lost
        ([SUBMITTED, STARTED, ("finished", {})], "", "finished"),
        ([SUBMITTED, STARTED, ("stopped", {})], "", "stopped"),
        ([SUBMITTED, STARTED, FAILED, ("gave_up", {})], "", "gave_up"),
        ([SUBMITTED, STARTED, FAILED, ("gave_up", {}), SUBMITTED], "PENDING", "queued"),
        ([SUBMITTED, STARTED, ("stopped", {}), SUBMITTED, STARTED], "RUNNING", "running"),
        ([SUBMITTED, STARTED, FAILED], "FAILED", "failed"),
        ([SUBMITTED, STARTED], "COMPLETED", "failed"),  # it never said that it finished
        ([SUBMITTED, STARTED], "TIMEOUT", "failed"),
        ([SUBMITTED, STARTED], "NODE_FAIL", "failed"),
        ([SUBMITTED, STARTED], "OUT_OF_MEMORY", "failed"),
        ([SUBMITTED, STARTED], "CANCELLED", "stopped"),
        ([SUBMITTED], "CANCELLED", "stopped"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_on_slurm(
    tmp_path: Path, programs: Path, events: Any, slurm: str, state: str
) -> None:
    slurm_says(programs, slurm)
    assert state_of(make_run(tmp_path / "run", events, "17")) == state


def test_a_run_that_was_never_submitted_is_new(tmp_path: Path, programs: Path) -> None:
    assert state_of(make_run(tmp_path / "run")) == "new"
    assert state_of(tmp_path / "nowhere") == "new"
    assert calls(programs, "squeue") == []


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        yield sleeping
        sleeping.kill()


def test_a_local_run_lives_while_its_process_does(tmp_path: Path, process: Any) -> None:
    run = make_run(tmp_path / "run", [("submitted", {})], str(process.pid), "local")
    assert state_of(run) == "queued"
    record(run, "started")
    assert state_of(run) == "running"
    process.kill()
    while last_job(run) and state_of(run) == "running":  # until it is reaped, or a zombie
        time.sleep(0.01)
    assert state_of(run) == "failed"
    record(run, "finished")
    assert state_of(run) == "finished"


def test_a_process_that_has_the_number_later_is_another_one(tmp_path: Path, process: Any) -> None:
    run = make_run(tmp_path / "run", [("started", {})], str(process.pid), "local")
    jobs = run / "launch/jobs.jsonl"
    job = json.loads(jobs.read_text())
    jobs.write_text(json.dumps({**job, "created": job["created"] - 3600}) + "\n")
    assert state_of(run) == "failed"


def test_a_process_of_another_host_is_not_guessed_at(tmp_path: Path, process: Any) -> None:
    run = make_run(tmp_path / "run", [("started", {})], str(process.pid), "local")
    jobs = run / "launch/jobs.jsonl"
    jobs.write_text(json.dumps({**json.loads(jobs.read_text()), "host": "elsewhere"}) + "\n")
    with pytest.raises(UserError, match="process of elsewhere: ask there"):
        state_of(run)
    record(run, "finished")
    assert state_of(run) == "finished"


def test_where_squeue_fails_a_run_is_not_taken_for_dead(tmp_path: Path, programs: Path) -> None:
    fake(programs, "squeue", 'echo "squeue: error: Unable to contact slurm controller" >&2; exit 1')
    run = make_run(tmp_path / "run", [SUBMITTED, STARTED], "17")
    with pytest.raises(
        UserError, match=r"must be in a known state.*Unable to contact slurm controller"
    ):
        state_of(run)


def test_the_last_job_counts(tmp_path: Path, programs: Path) -> None:
    run = make_run(tmp_path / "run", [SUBMITTED, STARTED], "16")
    add_job(run, "17", "slurm")
    with (run / "launch/jobs.jsonl").open("a") as stream:
        stream.write('{"id": "18", "exec')  # torn
    slurm_says(programs, "RUNNING")
    assert state_of(run) == "running"


def one(run: Path) -> Standing:
    (row,), problem = standings([run])
    assert problem == ""
    return row


def test_update_loss_speed_and_time_to_go(tmp_path: Path, programs: Path) -> None:
    slurm_says(programs, "RUNNING")
    events = [SUBMITTED, STARTED, FAILED, ("restarting", {"attempt": 1}), ("resumed", {"update": 20}),
              ("saved_and_requeued", {}), ("preempted", {}), ("started", {})]  # fmt: skip
    row = one(make_run(tmp_path / "run", events, "17", log=[json_line(40, 7.25)]))
    assert (row.run, row.state, row.job, row.update, row.max_update) == (
        "run",
        "running",
        "17",
        40,
        100,
    )
    assert (row.loss, row.tokens_per_second, row.eta_seconds) == (
        7.25,
        1024.0,
        30.0,
    )  # 60 / (1024 / 512)
    assert (row.restarts, row.requeues, row.problem) == (1, 2, "")


def test_before_the_first_line_of_the_log_the_update_is_the_event_s(
    tmp_path: Path, programs: Path
) -> None:
    slurm_says(programs, "RUNNING")
    row = one(make_run(tmp_path / "run", [SUBMITTED, ("resumed", {"update": 20})], "17"))
    assert (row.update, row.loss, row.eta_seconds) == (20, None, None)


def test_of_a_run_that_does_not_run_the_last_event_knows_the_update(
    tmp_path: Path, programs: Path
) -> None:
    events = [
        SUBMITTED,
        STARTED,
        ("rank", {"rank": 0}),
        ("saved_and_requeued", {"update": 43}),
        ("rank", {}),
    ]
    slurm_says(programs, "PENDING")
    row = one(make_run(tmp_path / "run", events, "17", log=[json_line(40)]))
    assert (row.state, row.update) == ("queued", 43)
    assert row.last_event is not None
    assert row.last_event["kind"] == "saved_and_requeued"


@pytest.mark.parametrize("max_update", [None, 0, "many", "1e999"])
def test_without_a_last_update_there_is_no_time_to_go(
    tmp_path: Path, programs: Path, max_update: Any
) -> None:
    slurm_says(programs, "RUNNING")
    row = one(
        make_run(tmp_path / "run", [SUBMITTED], "17", log=[json_line(4)], max_update=max_update)
    )
    assert (row.update, row.max_update, row.eta_seconds) == (4, None, None)


def test_why_a_run_failed_is_said(tmp_path: Path, programs: Path) -> None:
    slurm_says(programs, "FAILED")
    row = one(make_run(tmp_path / "run", [SUBMITTED, STARTED, FAILED], "17"))
    assert (
        row.problem
        == "Its job 17 ended as FAILED. loss is not finite (rank 1, node n2, update 30)."
    )
    record(row.save_dir, "gave_up", reason="it failed so before")
    row = one(row.save_dir)
    assert (row.state, row.problem) == (
        "gave_up", "loss is not finite (rank 1, node n2, update 30). Given up: it failed so before.",
    )  # fmt: skip


def test_a_job_that_slurm_has_forgotten(tmp_path: Path, programs: Path) -> None:
    fake(programs, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    row = one(make_run(tmp_path / "run", [SUBMITTED, STARTED], "17"))
    assert row.state == "failed"
    assert row.problem == (
        "Its job 17 is over, and SLURM has forgotten how. It left no word; see `metaseq launch logs --errors`."
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
    assert "events.jsonl must be readable, but is not (Is a directory)." in flat
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
