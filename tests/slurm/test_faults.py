"""Ranks that fail or hang, nodes that fail, and a slurmctld that is away: what goes on, and what is given up."""

import signal
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.launch.folders.status import state_of
from metaseq_plugin.launch.spec import Survival
from scripts.slurm_cluster import Cluster
from tests.slurm.trials import Trial

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_killed_rank_is_started_again(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, nodes: int
) -> None:
    launch = {"nodes": nodes}
    trial = Trial.begin(
        cluster, data, tmp_path / "run", 30, launch=launch, act="kill", at=17, times=1
    )
    trial.wait()
    trial.assert_finished(undisturbed(30, nodes))
    assert trial.updates() == [*range(1, 17), *range(11, 31)]
    (failed,) = trial.events("failed")
    assert (failed["rank"], failed["update"]) == (0, 16)
    assert len(trial.events("restarting")) == 1


def test_an_update_that_fails_twice_is_given_up(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 30, act="raise", at=17)
    trial.wait()
    assert trial.attempts()[-1] == "FAILED"
    assert trial.updates() == [*range(1, 17), *range(11, 17)]
    assert len(trial.events("failed")) == 2
    (gave_up,) = trial.events("gave_up")
    assert "update 17 is poisoned" in gave_up["reason"]
    assert state_of(trial.save_dir) == "gave_up"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_hang_is_noticed_shown_and_ended(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, nodes: int
) -> None:
    survival = Survival(backoff=0.5, hang_seconds=5.0)
    launch = {"survival": survival, "nodes": nodes}
    trial = Trial.begin(
        cluster, data, tmp_path / "run", 30, launch=launch, act="hang", at=17, times=1
    )
    trial.wait()
    trial.assert_finished(undisturbed(30, nodes))
    assert trial.updates() == [*range(1, 17), *range(11, 31)]
    assert len(trial.events("hang")) == 1
    for rank in range(nodes):
        log = (trial.save_dir / f"launch/logs/rank-{rank}.log").read_text()
        assert "in train_step" in log
    assert "in misbehave" in (trial.save_dir / "launch/logs/rank-0.log").read_text()


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_node_set_down_costs_the_updates_since_the_last_save_at_most(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, nodes: int
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 60, launch={"nodes": nodes}, seconds=0.1)
    trial.wait_for_update(17)
    node = trial.rows()[0]["node"]
    trial.slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=trial")
    if nodes == 2:  # there is no third
        trial.wait_until(lambda: not cluster.step_processes(), "the end on both nodes")
        trial.wait_until(lambda: state_of(trial.save_dir) == "queued", "the requeue")
        trial.slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    trial.wait()
    trial.assert_finished(undisturbed(60, nodes))
    assert trial.attempts() == ["NODE_FAIL", "COMPLETED"]
    assert trial.rows()[-1]["node"] != node or nodes == 2


def test_a_node_whose_slurmd_is_killed_is_left_and_never_runs_beside_the_new_one(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 400, seconds=0.2)
    trial.wait_for_update(17)
    node = trial.rows()[0]["node"]
    cluster.end(f"slurmd-{node}", signal.SIGKILL)
    trial.wait()
    trial.assert_finished(undisturbed(400))
    assert trial.attempts() == ["NODE_FAIL", "COMPLETED"]
    assert trial.rows()[-1]["node"] != node


def test_slurmctld_may_be_restarted_under_a_run(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 60, seconds=0.1)
    trial.wait_for_update(7)
    cluster.end("slurmctld")
    seen = len(trial.rows())
    trial.wait_for_update(seen + 10)
    cluster.up()
    trial.wait()
    trial.assert_finished(undisturbed(60))
    trial.assert_no_update_twice()
    assert trial.attempts() == ["COMPLETED"]


def test_a_run_that_fails_while_slurmctld_is_away_is_started_again_when_it_is_back(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    trial = Trial.begin(
        cluster, data, tmp_path / "run", 60, seconds=0.1, act="kill", at=27, times=1
    )
    trial.wait_for_update(7)
    cluster.end("slurmctld")
    trial.wait_until(lambda: "failed" in trial.kinds(), "the failure")
    cluster.up()
    trial.wait()
    trial.assert_finished(undisturbed(60))
    assert len(trial.events("restarting")) == 1
