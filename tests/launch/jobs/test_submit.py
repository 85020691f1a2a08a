"""What submitit and sbatch are told of a launch."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.jobs import sbatch_script, submit
from metaseq_plugin.launch.jobs.agent import Agent
from metaseq_plugin.launch.jobs.submit import alike, folder_of, slurm_parameters
from metaseq_plugin.launch.jobs.turn import Queue
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival

jobs_submit = import_module("metaseq_plugin.launch.jobs.submit")  # of which a function has the name


def launch(save_dir: str = "/runs/a", **resources: Any) -> Launch:
    spec = RunSpec("data", Path(save_dir), {"arch": "opt_125m"}, "a")
    return Launch(spec, Resources("slurm", **resources), Survival(signal_seconds=120))


def settings(script: str) -> dict[str, str]:
    """The #SBATCH lines; a flag's value is ""."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    return dict(found)


def test_one_task_a_node_has_the_gpus_and_cpus_of_all_its_ranks() -> None:
    asked = settings(sbatch_script(launch(nodes=2, ranks_per_node=8, cpus_per_rank=10, minutes=60)))
    assert asked["nodes"] == "2"
    assert asked["ntasks-per-node"] == "1"
    assert asked["gpus-per-node"] == "8"
    assert asked["cpus-per-task"] == "80"
    assert asked["time"] == "60"
    assert asked["signal"] == "USR2@120"
    assert asked["open-mode"] == "append"
    assert "requeue" in asked


def test_srun_is_told_the_cpus_too() -> None:
    script = sbatch_script(launch(ranks_per_node=2, uses_gpus=False))
    (srun,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--cpus-per-task=2" in srun
    assert "gpus-per-node" not in settings(script)


def test_every_other_option_of_sbatch_goes_through() -> None:
    slurm = {"partition": "a100", "cpus-per-gpu": 4, "exclusive": True, "no-kill": False}
    asked = settings(sbatch_script(launch(slurm=slurm)))
    assert (asked["partition"], asked["cpus-per-gpu"], asked["exclusive"]) == ("a100", "4", "")
    assert "no-kill" not in asked


def test_a_dependency_joins_the_users_and_does_not_wait_for_ever() -> None:
    more = slurm_parameters(launch(slurm={"dependency": "singleton"}), after=["7", "8_1"])
    assert more["additional_parameters"]["dependency"] == "afterok:7:8_1,singleton"
    assert more["additional_parameters"]["kill_on_invalid_dep"] == "yes"


def test_launches_that_ask_the_same_are_one_array() -> None:
    small, large = launch(ranks_per_node=1), launch(ranks_per_node=8)
    assert alike([small, large, small]) == [[0, 2], [1]]


def test_submitits_files_lie_in_the_run_or_in_what_all_runs_share() -> None:
    assert folder_of([launch("/runs/a")]) == Path("/runs/a/launch/submitit")
    both = [launch("/runs/s/a"), launch("/runs/s/b")]
    assert folder_of(both) == Path("/runs/s/launch/submitit")


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (Resources("pbs"), "`--executor` must be one of auto, slurm, local, debug, but is pbs. Set one of them."),
        (Resources("local", nodes=2), "`--nodes` must be 1 with --executor local, but is 2. Set 1, or --executor slurm."),
    ],
)  # fmt: skip
def test_an_executor_that_cannot_is_refused(resources: Resources, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        submit([replace(launch(), resources=resources)])


def test_slurm_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun is not found"):
        submit([launch()])


def test_what_sbatch_refuses_is_said_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"sbatch says: .*invalid partition"):
        submit([launch(str(tmp_path / "run"))])


def test_runs_of_a_folder_take_turns_also_where_each_is_submitted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a stage with ``start: each``, which wait for a run each."""
    submitted: list[Agent] = []

    def submit_nothing(agent: Agent) -> SimpleNamespace:
        submitted.append(agent)
        return SimpleNamespace(job_id="1")

    executor = SimpleNamespace(submit=submit_nothing, name=lambda: "local")
    monkeypatch.setattr(jobs_submit, "executor_here", lambda launch: executor)
    for name in ("a", "b"):
        one = launch(str(tmp_path / "tune" / name))
        one = replace(one, resources=replace(one.resources, executor="local"))
        submit([one], max_jobs=1, after=["17"])
    assert {agent.queue for agent in submitted} == {
        Queue(tmp_path / "tune" / "launch" / "queue", 1, ("17",))
    }
