"""Runs on a real SLURM that nobody disturbs: on one node and on two, arrays, dependencies, and the time limit."""

import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from metaseq_plugin.launch.jobs import submit
from metaseq_plugin.launch.spec import Survival
from scripts.slurm_cluster import Cluster
from tests.slurm.trials import Trial, prepare, tiny_launch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_is_the_one_without_a_launcher(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any, nodes: int
) -> None:
    trial = Trial.begin(cluster, data, tmp_path / "run", 20, launch={"nodes": nodes})
    trial.wait()
    trial.assert_finished(undisturbed(20, nodes))
    trial.assert_no_update_twice()
    assert trial.attempts() == ["COMPLETED"]
    assert [trial.rows(rank)[0]["node"] for rank in range(nodes)] == ["n1", "n2"][:nodes]


def times(trials: List[Trial]) -> Dict[str, List[float]]:
    """job -> when it began and ended to make updates."""
    return {trial.job: [trial.rows()[0]["time"], trial.rows()[-1]["time"]] for trial in trials}


def test_an_array_runs_all_and_no_more_at_once_than_it_may(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    launches = [tiny_launch(data, tmp_path / f"run{number}", 20) for number in range(4)]
    for launch in launches:
        prepare(launch.spec.save_dir, seconds=0.1)
    jobs = submit(launches, max_jobs=2)
    main = jobs[0].split("_")[0]
    assert jobs == [f"{main}_{number}" for number in range(4)]
    trials = [Trial(launch, job, cluster) for launch, job in zip(launches, jobs)]
    for trial in trials:
        trial.wait()
        trial.assert_finished(undisturbed(20))
        assert trial.attempts() == ["COMPLETED"]
    spans = list(times(trials).values())
    for began, _ in spans:
        assert sum(first <= began <= last for first, last in spans) <= 2


def test_a_job_waits_for_the_one_before_and_never_runs_where_that_failed(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    first = Trial.begin(cluster, data, tmp_path / "first", 10)
    launches = [tiny_launch(data, tmp_path / name, 10) for name in ("second", "bad", "never")]
    for launch, trial in zip(launches, ({}, {"act": "raise", "at": 2}, {})):
        prepare(launch.spec.save_dir, **trial)
    (second,) = submit(launches[:1], after=[first.job])
    (bad,) = submit(launches[1:2])
    (never,) = submit(launches[2:], after=[bad])
    after = Trial(launches[0], second, cluster)
    after.wait()
    assert first.attempts() == after.attempts() == ["COMPLETED"]
    assert first.rows()[-1]["time"] < after.rows()[0]["time"]
    broken = Trial(launches[1], bad, cluster)
    broken.wait()
    assert broken.attempts()[-1] == "FAILED", broken.told()
    waiting = Trial(launches[2], never, cluster)
    waiting.wait()
    assert waiting.attempts() == ["CANCELLED"]
    assert not waiting.rows()


def test_a_run_longer_than_the_time_limit_is_requeued_and_finishes(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: Any
) -> None:
    launch = {"survival": Survival(signal_seconds=10)}
    trial = Trial.begin(cluster, data, tmp_path / "run", 400, launch=launch, seconds=0.4)
    trial.wait_for_update(7)
    # SLURM looks every 30 s, and may send the signal so much earlier: 20 s from now at least, 110 s at most.
    minutes = int(time.time() - trial.events("started")[0]["time"]) // 60 + 2
    trial.slurm("scontrol", "update", f"JobId={trial.job}", f"TimeLimit={minutes}")
    trial.wait_until(lambda: "saved_and_requeued" in trial.kinds(), "the requeue")
    trial.slurm("scontrol", "update", f"JobId={trial.job}", "TimeLimit=20")
    prepare(trial.save_dir)  # the rest may be quick
    trial.wait()
    trial.assert_finished(undisturbed(400))
    trial.assert_no_update_twice()
    assert trial.attempts() == ["REQUEUED", "COMPLETED"]
