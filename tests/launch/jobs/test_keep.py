"""What the agents of a job do where they cannot even begin."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.jobs import slurm, team
from metaseq_plugin.launch.jobs.keep import EXIT_FAILED, Keeper
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.slurm import JobState
from metaseq_plugin.launch.jobs.told import Told
from metaseq_plugin.launch.spec import LAUNCH, Launch, Resources, RunSpec, Survival


def keeper(folder: Path, number: int, node: int) -> Keeper:
    launch = Launch(RunSpec("data", folder, {}), Resources("slurm", 2), Survival(backoff=0.0))
    place = Place("slurm", "17", number, node, ("127.0.0.1", "127.0.0.1"), 0)
    return Keeper(launch, place, b"secret", folder / "progress", Told(), True)


def test_a_port_that_is_taken_is_a_failure_of_which_the_next_start_has_another(
    tmp_path: Path, free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requeued: list[int] = []

    def job_state(number: int) -> JobState:
        return JobState("RUNNING", len(requeued))

    monkeypatch.setattr(slurm, "job_state", job_state)
    monkeypatch.setattr(Told, "ask_submitit", lambda self: requeued.append(1))
    first = keeper(tmp_path, free_number, 0)
    with socket.create_server(("", first.place.ports(0)[1])), pytest.raises(SystemExit) as end:
        first.run()
    assert end.value.code == EXIT_FAILED
    assert requeued == [1]
    failed, restarting = read_events(tmp_path).events
    assert (failed["kind"], restarting["kind"]) == ("failed", "restarting")
    assert "Address already in use" in failed["reason"]


def test_an_agent_that_the_first_node_does_not_answer_ends(
    tmp_path: Path, free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "SECONDS_TO_MEET", 0.0)
    with pytest.raises(SystemExit) as end:
        keeper(tmp_path, free_number, 1).run()
    assert end.value.code == EXIT_FAILED
    assert read_events(tmp_path).events == []


def test_failures_that_nobody_can_write_down_do_not_requeue_a_job_for_ever(
    tmp_path: Path, free_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start has another agent, which can read of no restart: SLURM's own count ends it."""
    (tmp_path / LAUNCH).write_text("no folder")
    starts: list[int] = []
    monkeypatch.setattr(slurm, "job_state", lambda number: JobState("RUNNING", len(starts)))
    monkeypatch.setattr(Told, "ask_submitit", lambda self: starts.append(1))
    for requeues in range(4):
        agent = keeper(tmp_path, free_number, 0)
        survival = Survival(max_restarts=3, backoff=0.0)
        agent = replace(
            agent,
            launch=replace(agent.launch, survival=survival),
            place=replace(agent.place, requeues=requeues),
        )
        port = agent.place.ports(requeues)[1]
        with socket.create_server(("", port)), pytest.raises(SystemExit) as end:
            agent.run()
        assert end.value.code == EXIT_FAILED
        assert len(starts) == min(requeues + 1, 3)
