"""Runs are stopped: local ones as processes, those on SLURM by scancel, which is a script here."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import psutil
import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import stop
from metaseq_plugin.launch.folders.events import read_events, record
from metaseq_plugin.launch.folders.status import state_of
from tests.launch.folders.run_folders import calls, fake, json_line, make_run

# An agent that saves on SIGTERM, says so in the log's way, and has a child, as submitit's controller has.
AGENT = """
import os, pathlib, signal, subprocess, sys, time
run = pathlib.Path(sys.argv[1])
child = subprocess.Popen(["sleep", "600"])
def told(number, frame):
    (run / "checkpoint_last.pt").write_text("saved")
    child.kill()
    sys.exit(143)
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, told)
(run / "ready").write_text(str(child.pid))
time.sleep(600)
"""


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(stop, "POLL_SECONDS", (0.05, 0.05))
    for name in ("squeue", "sacct", "scancel"):
        fake(folder, name, "true")
    return folder


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    stop.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def stopped(capsys: Any, *words: object) -> list[str]:
    stop.run(arguments(*words))
    lines: list[str] = capsys.readouterr().out.splitlines()
    return lines


def kinds(run: Path) -> list[str]:
    return [event["kind"] for event in read_events(run).events]


@pytest.fixture
def agents() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for agent in started:
        for process in (
            [*psutil.Process(agent.pid).children(), agent] if agent.poll() is None else []
        ):
            process.kill()
        agent.wait()


def start(agents: Any, run: Path, kind: str = "saving") -> Path:
    """A local run whose agent is a real process."""
    run.mkdir()
    agent = subprocess.Popen([sys.executable, "-c", AGENT, run, kind])
    agents.append(agent)
    while not (run / "ready").exists() or not (run / "ready").read_text():
        time.sleep(0.01)
    return make_run(
        run, [("submitted", {}), ("started", {})], str(agent.pid), "local", [json_line(40)]
    )


def test_a_local_run_saves_and_ends(tmp_path: Path, agents: Any, capsys: Any) -> None:
    run = start(agents, tmp_path / "run")
    assert stopped(capsys, run) == [f"{run}: is stopped at update 40; checkpoint_last.pt is saved"]
    assert agents[0].wait(10) == 143
    event = read_events(run).events[-1]
    assert (event["kind"], event["update"], event["saved"]) == ("stopped", 40, "checkpoint_last.pt")
    assert event["by"] == "metaseq launch stop"
    assert state_of(run) == "stopped"
    assert stopped(capsys, run) == [f"{run}: is not running: stopped"]
    assert kinds(run).count("stopped") == 1


def test_now_kills_the_agent_and_all_below_it(tmp_path: Path, agents: Any, capsys: Any) -> None:
    run = start(agents, tmp_path / "run", "deaf")
    child = psutil.Process(int((run / "ready").read_text()))
    assert stopped(capsys, run, "--now") == [
        f"{run}: is stopped at update 40; nothing was saved since it was told to stop"
    ]
    assert agents[0].wait(10) == -signal.SIGKILL
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert read_events(run).events[-1]["by"] == "metaseq launch stop --now"


def test_a_run_that_does_not_end_in_time_is_said(tmp_path: Path, agents: Any) -> None:
    run = start(agents, tmp_path / "run", "deaf")
    with pytest.raises(
        UserError, match=r"RUN must end within 0.3 s, but .* is still running\. .*--now"
    ):
        stop.run(arguments(run, "--wait", "0.3"))
    assert kinds(run) == ["submitted", "started"]


def test_a_run_that_finishes_meanwhile_has_finished(
    tmp_path: Path, agents: Any, capsys: Any
) -> None:
    run = start(agents, tmp_path / "run")
    record(run, "finished")
    assert stopped(capsys, run) == [f"{run}: is not running: finished"]
    assert agents[0].poll() is None


def on_slurm(programs: Path, run: Path, state: str, after: str = "") -> Path:
    """A run whose job is in ``state`` until scancel was called, and then in ``after``."""
    make_run(run, [("submitted", {"job": "17"}), ("started", {})], "17", log=[json_line(40)])
    told = programs / "scancel.calls"
    fake(
        programs, "squeue", f'if [ -e {told} ]; then echo "17|{after}"; else echo "17|{state}"; fi'
    )
    return run


def test_a_running_job_is_told_to_save(tmp_path: Path, programs: Path, capsys: Any) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING", "FAILED")
    names = f"{run}/checkpoint_last-shard0.pt {run}/checkpoint_last.manifest.json"
    fake(programs, "scancel", f"touch {names}")
    assert stopped(capsys, run) == [
        f"{run}: is stopped at update 40; checkpoint_last-shard0.pt is saved"
    ]
    assert calls(programs, "scancel") == ["--signal=TERM 17"]
    assert kinds(run)[-1] == "stopped"


def test_what_the_agent_recorded_is_not_recorded_again(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING", "COMPLETED")
    fake(
        programs,
        "scancel",
        f"""echo '{{"time": 1, "kind": "stopped"}}' >> {run}/launch/events.jsonl""",
    )
    stopped(capsys, run)
    assert kinds(run).count("stopped") == 1


def test_a_waiting_job_is_cancelled(tmp_path: Path, programs: Path, capsys: Any) -> None:
    run = on_slurm(programs, tmp_path / "run", "PENDING", "CANCELLED")
    assert stopped(capsys, run) == [f"{run}: job 17 is cancelled; it had not begun"]
    assert calls(programs, "scancel") == ["17"]
    assert state_of(run) == "stopped"


def test_now_kills_and_cancels_so_that_nothing_comes_back(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING", "CANCELLED")
    assert stopped(capsys, run, "--now") == [
        f"{run}: is stopped at update 40; nothing was saved since it was told to stop"
    ]
    assert calls(programs, "scancel") == ["--signal=KILL 17", "17"]


def test_a_job_that_finishes_before_it_hears_has_finished(
    tmp_path: Path, programs: Path, capsys: Any
) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING", "COMPLETED")
    fake(
        programs,
        "scancel",
        f"""echo '{{"time": 1, "kind": "finished"}}' >> {run}/launch/events.jsonl""",
    )
    assert stopped(capsys, run) == [f"{run}: has ended before it was stopped: finished"]
    assert kinds(run)[-1] == "finished"


def test_scancel_that_fails_is_said(tmp_path: Path, programs: Path) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING", "RUNNING")
    fake(
        programs,
        "scancel",
        'echo "scancel: error: Kill job error on job id 17: Access denied" >&2; exit 1',
    )
    with pytest.raises(UserError) as raised:
        stop.run(arguments(run, "--wait", "0"))
    first, second = str(raised.value).split("\n")
    assert first == (
        "RUN must be stopped by scancel, but scancel failed with status 1 "
        "(Kill job error on job id 17: Access denied). Look at its job in squeue."
    )
    assert second.startswith("RUN must end within 0 s, but ")


def test_a_run_of_which_nothing_is_known_is_not_stopped_and_said(
    tmp_path: Path, programs: Path
) -> None:
    run = on_slurm(programs, tmp_path / "run", "RUNNING")
    fake(programs, "squeue", "exit 1")
    with pytest.raises(
        UserError, match=r"must be in a known state to be stopped.*squeue failed with status 1"
    ):
        stop.run(arguments(run))
    assert calls(programs, "scancel") == []


def test_new_and_ended_runs_say_so(tmp_path: Path, programs: Path, capsys: Any) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", [("submitted", {}), ("gave_up", {"reason": "twice"})], "17")
    assert stopped(capsys, tmp_path) == [
        f"{tmp_path}/a: was never submitted", f"{tmp_path}/b: is not running: gave_up",
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e9"])
def test_bad_seconds_are_refused(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(UserError, match="`--wait` must be 0 to 86400 seconds"):
        stop.run(arguments(make_run(tmp_path), "--wait", seconds))
