"""Submit runs through submitit: to SLURM, as an array where there are several, or as processes of this machine.

    submit([launch, …], max_jobs=8, after=["17"])      ["18_0", "18_1", …]
    sbatch_script(launch)                               what SLURM would be given

One task a node is asked for, with the GPUs and CPUs of all its ranks: the agent, which starts them. submitit's own
files lie in ``SAVE_DIR/launch/submitit``, those of an array in the folder that holds all its runs.
"""

import os
import secrets
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.jobs_file import add_job
from metaseq_plugin.launch.jobs.agent import LOCAL, Agent
from metaseq_plugin.launch.jobs.turn import Queue
from metaseq_plugin.launch.spec import LAUNCH, Launch

AUTO, SLURM, DEBUG = "auto", "slurm", "debug"
EXECUTORS = (AUTO, SLURM, LOCAL, DEBUG)
SUBMITIT = "submitit"
SECRET_BYTES = 16
LOCAL_MINUTES = (
    60 * 24 * 3650
)  # nobody waits for this machine, and submitit would start a job but six times
ENDLESS = 10**9  # requeues at a time limit: a run of a month has more than submitit's 3


def executor_of(launch: Launch) -> str:
    """submitit's executor for a launch: slurm where there is one, if that is left open.

    Raises:
        UserError: there is none of that name, or it cannot do what is asked.
    """
    from submitit import AutoExecutor
    from submitit.slurm.slurm import SlurmExecutor

    name, nodes = launch.resources.executor, launch.resources.nodes
    if name not in EXECUTORS:
        raise UserError(
            f"`--executor` must be one of {', '.join(EXECUTORS)}, but is {name}. Set one of them."
        )
    if name == SLURM and SlurmExecutor.affinity() < 0:
        raise UserError(
            "`--executor` must be one that is there, but is slurm, and srun is not found. Set local, "
            "or launch from a machine of the cluster."
        )
    executor = str(AutoExecutor.which()) if name == AUTO else name
    if executor != SLURM and nodes != 1:
        raise UserError(
            f"`--nodes` must be 1 with --executor {executor}, but is {nodes}. Set 1, or --executor slurm."
        )
    return executor


def slurm_parameters(
    launch: Launch, max_jobs: Optional[int] = None, after: Sequence[str] = ()
) -> dict[str, Any]:
    """What submitit's slurm executor is told of a launch."""
    resources, ranks = launch.resources, launch.resources.ranks_per_node
    asked: dict[str, Any] = {
        "job_name": launch.spec.name or launch.spec.save_dir.name,
        "nodes": resources.nodes,
        "ntasks_per_node": 1,
        "time": resources.minutes,
        "signal_delay_s": launch.survival.signal_seconds,
    }
    if resources.uses_gpus:
        asked["gpus_per_node"] = ranks
    if resources.cpus_per_rank is not None or not resources.uses_gpus:
        cpus = asked["cpus_per_task"] = ranks * (resources.cpus_per_rank or 1)
        asked["srun_args"] = [f"--cpus-per-task={cpus}"]  # srun takes it from sbatch no longer
    if max_jobs is not None:
        asked["array_parallelism"] = max_jobs
    more: dict[str, Any] = {"requeue": True}
    for name, value in resources.slurm.items():
        if value is not False:
            more[name.replace("-", "_")] = value
    if after:
        waits = [f"afterok:{':'.join(after)}", *filter(None, [more.get("dependency")])]
        more.update(dependency=",".join(map(str, waits)), kill_on_invalid_dep="yes")
    return {**asked, "additional_parameters": more}


def folder_of(launches: Sequence[Launch]) -> Path:
    """submitit's folder: the run's own, or that of all of them."""
    folders = [str(launch.spec.save_dir.absolute()) for launch in launches]
    return Path(os.path.commonpath(folders)) / LAUNCH / SUBMITIT


def sbatch_script(launch: Launch) -> str:
    """What SLURM would be given for ``launch`` alone; it takes no SLURM to write it."""
    from submitit.slurm.slurm import SlurmExecutor

    class Writer(SlurmExecutor):
        """Writes the script, and submits nothing."""

        @classmethod
        def affinity(cls) -> int:
            return 1

        def script(self) -> str:
            return str(self._make_submission_file_text(self._submitit_command_str, ""))

    writer = Writer(folder_of([launch]))
    writer.update_parameters(**slurm_parameters(launch))
    return writer.script()


def submit(
    launches: Sequence[Launch], *, max_jobs: Optional[int] = None, after: Sequence[str] = ()
) -> list[str]:
    """Submit each as a job of its own.

    Args:
        max_jobs: how many run at once.
        after: ids of jobs that must have finished before, of the same executor.

    Returns:
        their ids, in order.

    Raises:
        UserError: an executor that cannot do it, or sbatch refuses.
    """
    ids: dict[int, str] = {}
    for group in alike(launches):
        of_group = [launches[place] for place in group]
        submit_alike = submit_to_slurm if executor_of(of_group[0]) == SLURM else submit_here
        ids.update(zip(group, submit_alike(of_group, max_jobs, after)))
    return [ids[place] for place in range(len(launches))]


def alike(launches: Sequence[Launch]) -> list[list[int]]:
    """Places of those that ask the same of the machine, which one array can hold."""
    groups: dict[str, list[int]] = {}
    for place, launch in enumerate(launches):
        key = repr((launch.resources, launch.survival.signal_seconds))
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def submit_to_slurm(
    launches: Sequence[Launch], max_jobs: Optional[int], after: Sequence[str]
) -> list[str]:
    """One job, or an array.

    Raises:
        UserError: sbatch refuses; it says why.
    """
    from submitit.core.utils import FailedJobError
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder_of(launches), max_num_timeout=ENDLESS)
    executor.update_parameters(**slurm_parameters(launches[0], max_jobs, after))
    try:
        jobs = executor.submit_array([agent_of(one) for one in launches])
    except FailedJobError as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"SLURM must take what is asked of it, but sbatch says: {said}. Set other options of sbatch."
        ) from error
    ids = [str(job.job_id) for job in jobs]
    for launch, job in zip(launches, ids):
        note(launch, job, SLURM)
    return ids


def submit_here(
    launches: Sequence[Launch], max_jobs: Optional[int], after: Sequence[str]
) -> list[str]:
    """Processes of this machine, which outlive this one; with "debug", this one."""
    # One for all runs of a folder, whenever they are submitted: what waits for different jobs comes one by one.
    runs = launches[0].spec.save_dir.absolute().parent
    queue = Queue(runs / LAUNCH / "queue", max_jobs, tuple(after))
    ids = []
    for launch in launches:
        executor, folder = executor_here(launch), folder_of([launch])
        folder.mkdir(parents=True, exist_ok=True)
        with detached(folder / "controller.log"):
            job = executor.submit(replace(agent_of(launch), queue=queue))
        note(launch, str(job.job_id), executor.name())
        if executor.name() == DEBUG:
            job.wait()
        ids.append(str(job.job_id))
    return ids


def executor_here(launch: Launch) -> Any:
    """submitit's executor for processes of this machine."""
    from submitit.local.debug import DebugExecutor
    from submitit.local.local import LocalExecutor

    folder, resources = folder_of([launch]), launch.resources
    if executor_of(launch) == DEBUG:
        return DebugExecutor(folder)
    executor = LocalExecutor(folder, max_num_timeout=ENDLESS)
    executor.update_parameters(
        timeout_min=LOCAL_MINUTES,
        gpus_per_node=resources.ranks_per_node if resources.uses_gpus else 0,
        tasks_per_node=1,
    )
    return executor


def note(launch: Launch, job: str, executor: str) -> None:
    """Write down in the run's folder that it was submitted, and as what."""
    add_job(launch.spec.save_dir, job, executor)
    record(launch.spec.save_dir, "submitted", job=job, executor=executor)


def agent_of(launch: Launch) -> Agent:
    return Agent(launch, secrets.token_bytes(SECRET_BYTES))


@contextmanager
def detached(log: Path) -> Iterator[None]:
    """Within, new processes do not hold this one's input and output, which who waits for the end of would wait for."""
    kept = [os.dup(stream) for stream in (0, 1, 2)]
    nothing, written = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY),
    )
    sys.stdout.flush()
    try:
        for new, stream in ((nothing, 0), (written, 1), (written, 2)):
            os.dup2(new, stream)
        yield
    finally:
        for stream, old in enumerate(kept):
            os.dup2(old, stream)
            os.close(old)
        os.close(nothing)
        os.close(written)
