"""What SLURM is asked, and what its answers mean; squeue and sacct are scripts here."""

import os
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.launch.folders import queue
from metaseq_plugin.launch.folders.queue import Answer, ask
from tests.launch.folders.run_folders import calls, fake


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: Any) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    fake(folder, "squeue", "true")
    fake(folder, "sacct", "true")
    return folder


def test_one_call_for_all_jobs(programs: Path) -> None:
    fake(programs, "squeue", 'printf "17|RUNNING\\n18_0|PENDING\\n18_1|COMPLETED\\n19|RUNNING\\n"')
    answer = ask(["18_1", "17", "18_0", "17"])
    assert answer == Answer(
        {"17": "RUNNING", "18_0": "PENDING", "18_1": "COMPLETED", "19": "RUNNING"}
    )
    assert calls(programs, "squeue") == [
        "--noheader --array --states=all --format=%i|%T --jobs=17,18"
    ]
    assert calls(programs, "sacct") == []


def test_what_squeue_has_forgotten_sacct_knows(programs: Path) -> None:
    fake(programs, "squeue", 'printf "17|RUNNING\\n"')
    fake(programs, "sacct", 'printf "18_2|CANCELLED by 0\\n19|NODE_FAIL\\n20|\\n"')
    answer = ask(["17", "18_2", "19", "20", "21"])
    assert answer == Answer({"17": "RUNNING", "18_2": "CANCELLED", "19": "NODE_FAIL"})
    assert calls(programs, "sacct") == [
        "--noheader --parsable2 --allocations --format=JobID,State --jobs=18_2,19,20,21"
    ]


def test_no_jobs_no_call(programs: Path) -> None:
    assert ask([]) == Answer()
    assert calls(programs, "squeue") == []


def test_a_job_that_squeue_refuses_has_been_forgotten(programs: Path) -> None:
    fake(programs, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    fake(programs, "sacct", 'echo "17|COMPLETED"')
    assert ask(["17"]) == Answer({"17": "COMPLETED"})


def test_where_squeue_fails_nothing_is_known(programs: Path) -> None:
    fake(programs, "squeue", 'echo "squeue: error: Unable to contact slurm controller" >&2; exit 1')
    answer = ask(["17"])
    assert not answer.is_known
    assert answer.problem == "squeue failed with status 1 (Unable to contact slurm controller)"
    assert calls(programs, "sacct") == []


def test_squeue_that_is_missing_is_said(programs: Path) -> None:
    (programs / "squeue").unlink()
    os.environ["PATH"] = str(programs)
    answer = ask(["17"])
    assert (answer.is_known, answer.problem) == (False, "squeue must be on PATH, but is not")


def test_where_sacct_fails_squeue_still_counts(programs: Path) -> None:
    fake(programs, "squeue", 'echo "17|RUNNING"')
    fake(programs, "sacct", 'echo "sacct: error: Slurm accounting storage is disabled" >&2; exit 1')
    answer = ask(["17", "18"])
    assert answer.states == {"17": "RUNNING"}
    assert answer.is_known
    assert answer.problem == "sacct failed with status 1 (Slurm accounting storage is disabled)"


def test_squeue_that_hangs_is_given_up(programs: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.3)
    fake(programs, "squeue", "exec sleep 60")
    answer = ask(["17"])
    assert (answer.is_known, answer.problem) == (False, "squeue did not answer for 0.3 s")
