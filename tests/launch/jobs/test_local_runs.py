"""Runs of two ranks through submitit's local executor: they end well, are stopped, fail, hang, and go on."""

import os
import re
import signal
from pathlib import Path
from typing import Any, Callable, Dict, List

import psutil
import pytest
import torch

from metaseq_plugin.launch.jobs import submit
from metaseq_plugin.launch.jobs.turn import is_running
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival, Value
from tests.fairseq_runs import write_data
from tests.rank_runs import train_ranks
from tests.slurm.trials import Trial, prepare, tiny_options, weights_of

pytestmark = pytest.mark.slow

RANKS = 2
SURVIVAL = Survival(backoff=0.2, signal_seconds=60)


def local_launch(
    data: Path, save_dir: Path, updates: int, survival: Survival = SURVIVAL, **options: Value
) -> Launch:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    spec = RunSpec(str(data), save_dir, {**tiny_options(updates), **given}, save_dir.name)
    return Launch(spec, Resources("local", 1, RANKS, uses_gpus=False, cpus_per_rank=1), survival)


class LocalTrial(Trial):
    """A ``Trial`` without a cluster: its job is submitit's controller, a process here."""

    @classmethod
    def of(cls, launch: Launch, **trial: Any) -> "LocalTrial":
        prepare(launch.spec.save_dir, **trial)
        (job,) = submit([launch])
        return cls(launch, job, None)  # type: ignore[arg-type]

    def slurm(self, *command: str) -> str:
        return ""

    def attempts(self) -> List[str]:
        return []

    def wait(self) -> None:
        self.wait_until(lambda: not is_running(self.job), "the end of the job")

    def agent(self) -> psutil.Process:
        """Of the last start."""
        return psutil.Process(self.events("started")[-1]["process"])

    def log(self, rank: int = 0) -> str:
        return (self.save_dir / f"launch/logs/rank-{rank}.log").read_text()

    def assert_same_weights(self, other: Path) -> None:
        found, weights = weights_of(self.save_dir), weights_of(other)
        assert found.keys() == weights.keys(), self.told()
        assert all(torch.equal(found[name], weights[name]) for name in weights), self.told()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), documents=256)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """``undisturbed(20)``: the folder of the same run of 20 updates without any launcher, made once."""
    made: Dict[int, Path] = {}

    def run(updates: int) -> Path:
        if updates not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            options = {**tiny_options(updates), "user-dir": "metaseq_plugin"}
            _, *words = RunSpec(str(data), folder, options).words()
            ended = train_ranks(RANKS, data, folder, *words)
            assert not any(rank.status for rank in ended), ended
            made[updates] = folder
        return made[updates]

    return run


def test_a_run_ends_well_and_goes_on_where_it_is_submitted_again(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 10))
    trial.wait()
    assert trial.kinds() == ["submitted", "started", "rank", "finished"], trial.told()
    assert trial.events("finished")[0]["update"] == 10
    trial.assert_same_weights(undisturbed(10))
    assert "num_updates" in trial.log(0)
    assert "Loaded checkpoint" not in trial.log(0)

    again = LocalTrial.of(local_launch(data, tmp_path / "run", 20))
    again.wait()
    assert again.kinds()[4:] == ["submitted", "started", "rank", "resumed", "finished"]
    assert again.events("resumed")[0]["update"] == 10
    assert again.updates(0) == again.updates(1) == list(range(1, 21))
    again.assert_same_weights(undisturbed(20))


def test_sigusr2_saves_requeues_through_submitit_and_changes_no_bit(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 20), seconds=0.1)
    trial.wait_for_update(5)
    trial.agent().send_signal(signal.SIGUSR2)
    trial.wait()
    (saved,) = trial.events("saved_and_requeued")
    assert saved["update"] == trial.events("resumed")[0]["update"]
    assert saved["signal"] == "SIGUSR2"
    assert len({event["process"] for event in trial.events("started")}) == 2
    trial.assert_no_update_twice()
    trial.assert_same_weights(undisturbed(20))


def test_a_killed_rank_is_started_again_from_the_last_save(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    launch = local_launch(data, tmp_path / "run", 20)
    trial = LocalTrial.of(launch, act="kill", at=17, times=1)
    trial.wait()
    (failed,) = trial.events("failed")
    assert (failed["rank"], failed["status"], failed["update"]) == (0, -9, 16)
    assert "SIGKILL" in failed["reason"]
    (restarting,) = trial.events("restarting")
    assert (restarting["attempt"], restarting["after"]) == (1, 0.2)
    assert trial.updates() == [*range(1, 17), *range(11, 21)]
    trial.assert_same_weights(undisturbed(20))


def test_an_update_that_fails_twice_is_given_up(data: Path, tmp_path: Path) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 20), act="raise", at=17)
    trial.wait()
    assert [event["rank"] for event in trial.events("failed")] == [0, 0], trial.told()
    assert trial.updates() == [*range(1, 17), *range(11, 17)]
    (gave_up,) = trial.events("gave_up")
    reason = (
        "it failed at update 16 for the same reason before: RuntimeError: update 17 is poisoned"
    )
    assert gave_up["reason"] == reason


def test_a_hang_shows_the_stacks_of_all_ranks_and_is_started_again(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    survival = Survival(backoff=0.2, hang_seconds=20.0)  # a start may take 6 times as long
    launch = local_launch(data, tmp_path / "run", 20, survival)
    trial = LocalTrial.of(launch, act="hang", at=17, times=1)
    trial.wait()
    (hang,) = trial.events("hang")
    assert hang["update"] == 16
    assert re.search(r"in misbehave\b", trial.log(0))
    assert re.search(r"in train_step\b", trial.log(1))
    assert len(trial.events("restarting")) == 1
    trial.assert_same_weights(undisturbed(20))


def test_a_users_mistake_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 20, arch="opt_7b"))
    trial.wait()
    assert [kind for kind in trial.kinds() if kind != "rank"] == [
        "submitted", "started", "failed", "gave_up"
    ], trial.told()  # fmt: skip
    (failed,) = trial.events("failed")
    assert failed["status"] == 2
    assert "`--arch` must be" in failed["reason"]


def test_a_requeue_before_the_first_save_starts_from_the_restore_file(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    start = str(undisturbed(10) / "checkpoint_last.pt")
    survival = Survival(backoff=0.2, restore_file=start)
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 20, survival))
    trial.wait_until(lambda: "rank" in trial.kinds(), "the start")
    trial.agent().send_signal(signal.SIGUSR2)
    trial.wait()
    assert len(trial.events("started")) == 2, trial.told()
    assert trial.updates() == list(range(11, 21))
    trial.assert_same_weights(undisturbed(20))


def test_sigterm_to_submitits_controller_saves_and_ends(
    data: Path, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 400), seconds=0.1)
    trial.wait_for_update(5)
    os.kill(int(trial.job), signal.SIGTERM)
    trial.wait()
    (stopped,) = trial.events("stopped")
    assert stopped["update"] == trial.updates()[-1]
    assert stopped["saved"] is True
    trial.assert_same_weights(undisturbed(stopped["update"]))


def test_no_rank_outlives_an_agent_that_is_killed(data: Path, tmp_path: Path) -> None:
    trial = LocalTrial.of(local_launch(data, tmp_path / "run", 400), seconds=0.1)
    trial.wait_for_update(3)
    ranks = trial.agent().children(recursive=True)
    assert len(ranks) >= RANKS
    trial.agent().kill()
    _, alive = psutil.wait_procs(ranks, timeout=20.0)
    assert not alive
    trial.wait()


def test_jobs_wait_for_their_turn_and_for_those_before(data: Path, tmp_path: Path) -> None:
    launches = [local_launch(data, tmp_path / name, 3) for name in ("a", "b")]
    last = local_launch(data, tmp_path / "last", 3)
    broken = local_launch(data, tmp_path / "broken", 3, arch="opt_7b")
    never = local_launch(data, tmp_path / "never", 3)
    for launch in (*launches, last, broken, never):
        prepare(launch.spec.save_dir, seconds=0.0)
    jobs = submit(launches, max_jobs=1)
    jobs += submit([last], after=jobs)
    jobs += submit([broken], after=jobs)
    jobs += submit([never], after=jobs[-1:])
    trials = [
        LocalTrial(launch, job, None)  # type: ignore[arg-type]
        for launch, job in zip((*launches, last, broken, never), jobs)
    ]
    for trial in trials:
        trial.wait()
    spans = [
        (trial.events("started")[0]["time"], trial.events("finished")[0]["time"])
        for trial in trials[:3]
    ]
    (a_begin, a_end), (b_begin, b_end), (begin, _) = spans
    assert a_end <= b_begin or b_end <= a_begin
    assert begin >= max(a_end, b_end)
    assert trials[3].kinds()[-1] == "gave_up"
    assert trials[4].kinds() == ["submitted", "gave_up"], trials[4].told()
