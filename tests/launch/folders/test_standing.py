"""How runs stand, by their events, their jobs and their logs."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.jobs_file import add_job, last_job
from metaseq_plugin.launch.folders.standing import Standing, standings
from metaseq_plugin.launch.folders.status import state_of
from tests.launch.folders.run_folders import (
    FAILED,
    STARTED,
    SUBMITTED,
    calls,
    fake,
    json_line,
    make_run,
    slurm_says,
)


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
