"""Runs that are requeued, preempted, cancelled: they save behind the update, and go on as if nothing had been."""

import argparse
import random
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.launch.folders import stop
from metaseq_plugin.launch.folders.status import state_of
from metaseq_plugin.launch.spec import Survival
from scripts.slurm_cluster import Cluster
from tests.slurm.trials import Trial, weights_of

pytestmark = pytest.mark.slow


def requeue(trial: Trial) -> None:
    trial.slurm("scontrol", "requeue", trial.job)


def warn(trial: Trial) -> None:
    """As before the time limit."""
    trial.slurm("scancel", "--signal=USR2", trial.job)


def preempt(trial: Trial) -> None:
    """A job that matters more takes all nodes, and is gone at once."""
    cpus = trial.cluster.cpus
    trial.slurm("sbatch", "-p", "urgent", "-N2", "--ntasks-per-node=1", f"--cpus-per-task={cpus}",
                "-o", "/dev/null", "--wrap", "true")  # fmt: skip


INTERRUPTIONS = (requeue, warn, preempt)


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
def test_an_interrupted_run_of_two_nodes_goes_on_behind_its_update(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, interrupt: Any
) -> None:
    launch = {"nodes": 2}
    trial = Trial.begin(cluster, data, tmp_path / "run", 40, launch=launch, seconds=0.1)
    trial.wait_for_update(7)
    interrupt(trial)
    trial.wait()
    trial.assert_finished(undisturbed(40, 2))
    trial.assert_no_update_twice()
    before, last = trial.attempts()
    assert before in ("REQUEUED", "PREEMPTED")
    assert last == "COMPLETED"
    assert len({row["process"] for row in trial.rows()}) == 2


def test_thirty_interruptions_change_no_bit(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    chance, updates = random.Random(0), 330
    trial = Trial.begin(cluster, data, tmp_path / "run", updates, seconds=0.1)
    for update in sorted(chance.sample(range(1, updates - 5), 30)):
        trial.wait_for_update(update)
        process = trial.rows()[-1]["process"]
        chance.choice(INTERRUPTIONS)(trial)
        trial.wait_for_start_behind(process)
    trial.wait()
    trial.assert_finished(undisturbed(updates))
    trial.assert_no_update_twice()


def test_a_requeue_before_the_first_save_starts_from_the_restore_file(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    start = undisturbed(10) / "checkpoint_last.pt"
    launch = {"survival": Survival(restore_file=str(start))}
    trial = Trial.begin(cluster, data, tmp_path / "run", 20, launch=launch, seconds=0.1)
    trial.wait_until(lambda: "started" in trial.kinds(), "the start")
    requeue(trial)
    trial.wait()
    trial.assert_finished(undisturbed(20))
    assert trial.updates() == list(range(11, 21))
    assert len(trial.attempts()) == 2


def scancel(trial: Trial) -> None:
    trial.slurm("scancel", trial.job)


def stop_command(trial: Trial) -> None:
    """``metaseq launch stop``."""
    parser = argparse.ArgumentParser()
    stop.add_arguments(parser)
    stop.run(parser.parse_args([str(trial.save_dir)]))


@pytest.mark.parametrize(("end", "state"), [(scancel, "CANCELLED"), (stop_command, "FAILED")])
def test_a_run_that_is_stopped_saves_and_does_not_come_back(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, end: Any, state: str
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 400, launch={"nodes": 2}, seconds=0.1)
    trial.wait_for_update(7)
    assert state_of(trial.save_dir) == "running"
    end(trial)
    trial.wait()
    assert trial.attempts() == [state]
    assert state_of(trial.save_dir) == "stopped"
    assert trial.kinds().count("stopped") == 1, trial.told()
    made, expected = weights_of(trial.save_dir), weights_of(undisturbed(trial.updates()[-1], 2))
    assert all(made[name].equal(tensor) for name, tensor in expected.items())


def test_a_job_that_waits_is_stopped_before_it_began(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    launch = {"begin": "now+1hour"}
    trial = Trial.begin(cluster, data, tmp_path / "run", 10, launch=launch)
    assert state_of(trial.save_dir) == "queued"
    stop_command(trial)
    trial.wait()
    assert trial.attempts() == ["CANCELLED"]
    assert state_of(trial.save_dir) == "stopped"
    assert not trial.rows()
