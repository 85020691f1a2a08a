"""``metaseq launch sweep.yaml``: the runs that are asked for, submitted stage by stage.

    metaseq launch sweep.yaml --dry-run           lists every command, and writes nothing
    metaseq launch sweep.yaml --max-jobs 8        what was never launched
    metaseq launch sweep.yaml --only failed       what has ended before its end

The steps: (1) the file is read and checked as a whole; (2) runs are chosen by the state of their folders; one that
is queued or runs is left alone; (3) of each stage, in order, those that wait for the same runs are submitted together,
with equal resources as one array; (4) what cannot be launched yet is named, with the reason.
"""

import shlex
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.explain import look_around, write_folder
from metaseq_plugin.launch.folders.jobs_file import last_job
from metaseq_plugin.launch.folders.standing import (
    FAILED,
    FINISHED,
    GAVE_UP,
    NEW,
    QUEUED,
    RUNS,
    STOPPED,
)
from metaseq_plugin.launch.folders.status import states_of
from metaseq_plugin.launch.jobs.submit import SLURM, executor_of, sbatch_script, submit
from metaseq_plugin.launch.resource_options import override
from metaseq_plugin.launch.spec import Resources
from metaseq_plugin.launch.sweep.reading import read_sweep
from metaseq_plugin.launch.sweep.screen import listing, plural, ranks_shown, summary
from metaseq_plugin.launch.sweep.sweep import Run, Stage, Sweep

MISSING = "missing"
# --only -> the states of the runs that it launches
ENDED = (FAILED, GAVE_UP, STOPPED)
ONLY: Mapping[str, Sequence[str]] = {
    MISSING: (NEW,),
    "failed": ENDED,
    "all": (NEW, *ENDED, FINISHED),
}
UNDER_WAY = {QUEUED, RUNS}
SECONDS_BETWEEN_LOOKS = 1.0
# Options of `metaseq launch` -> the key of the file where a sweep has it.
IN_THE_FILE = {"data": "data", "save_dir": "save_dir", "batch_tokens": "options", "without": "options", "more": "options"}  # fmt: skip


def add_sweep_options(group: Any) -> None:
    """Add those of ``metaseq launch`` that only a sweep has."""
    group.add_argument("--only", choices=list(ONLY), default=MISSING, help="runs that were never launched, that ended before their end, or all but those under way (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-jobs", type=int, metavar="N", help="so many at once of those with equal resources")  # fmt: skip


def check_options(args: Namespace) -> None:
    """Refuse options that a sweep file has instead."""
    if args.max_jobs is not None and args.max_jobs < 1:
        raise UserError(f"`--max-jobs` must be at least 1, but is {args.max_jobs}. Leave it out for no limit.")  # fmt: skip
    for name, key in IN_THE_FILE.items():
        value = vars(args)[name]
        if value:
            option = value[0] if name == "more" else f"--{name.replace('_', '-')}"
            raise UserError(f"`{option}` must stand in the file of a sweep, but is on the command line. Set `{key}` there.")  # fmt: skip


def launch_sweep(path: Path, args: Namespace) -> None:
    """Launch the runs of a file that ``args.only`` asks for, or with ``args.dry_run`` show them.

    With ``args.wait`` until they have ended, and then those that started from the best of them.

    Args:
        args: of ``metaseq launch``.

    Raises:
        UserError: a mistake in the file or the options, a run whose state cannot be known, or, of those that were
            waited for, one that did not finish.
    """
    check_options(args)
    while True:
        sweep = read_sweep(path, lambda launch: override(launch, args))
        launched = launch_now(sweep, args)
        if not args.wait or args.dry_run:
            return
        wait_for(launched)
        if not launched or not any(stage.waits for stage in sweep.stages):
            return


def launch_now(sweep: Sweep, args: Namespace) -> list[Path]:
    """Launch, or show, what can be; the folders of what was launched."""
    states = states_of([run.save_dir for run in sweep.runs()])
    wanted = [
        [run for run in stage.runs if states[run.save_dir] in ONLY[args.only]]
        for stage in sweep.stages
    ]
    say(summary(sweep, states, sum(map(len, wanted))))
    if args.dry_run:
        say(dry_run([run for runs in wanted for run in runs]))
        return []
    for run in (run for runs in wanted for run in runs):
        executor_of(run.launch)  # refuses one that is not there, before any is submitted
    launched: list[Path] = []
    for stage, runs in zip(sweep.stages, wanted):
        if runs and not stage.waits:
            launched += launch_stage(stage, runs, args)
    say(f"    metaseq launch status {shlex.quote(str(stage.folder))}" for stage in sweep.stages)
    return launched


def wait_for(folders: Sequence[Path]) -> None:
    """Until the runs in ``folders`` have ended.

    Raises:
        UserError: one did not finish.
    """
    while UNDER_WAY & set((states := states_of(folders)).values()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    lost = [folder for folder in folders if states[folder] != FINISHED]
    if lost:
        raise UserError(
            f"Every run must finish, but {len(lost)} of {len(folders)} did not ({lost[0]}: {states[lost[0]]}). "
            f"See `metaseq launch logs {shlex.quote(str(lost[0]))} --errors`."
        )


def each_once(resources: Iterable[Resources]) -> list[Resources]:
    """The different ones."""
    found: list[Resources] = []
    for asked in resources:
        if asked not in found:
            found.append(asked)
    return found


def dry_run(runs: Sequence[Run]) -> Iterator[str]:
    """Each command, and the script of sbatch for the first run of those with equal resources."""
    yield from listing(runs)
    for resources in each_once(run.launch.resources for run in runs):
        first = next(run.launch for run in runs if run.launch.resources == resources)
        if executor_of(first) == SLURM:
            yield f"\n# sbatch {first.spec.save_dir}/launch/job.sbatch; alike for all on {ranks_shown(resources)}"
            yield sbatch_script(first).rstrip()


def launch_stage(stage: Stage, runs: Sequence[Run], args: Namespace) -> Iterator[Path]:
    """Submit ``runs`` of a stage, say what was submitted and what was not, and give the folders of those that were."""
    states = states_of(list({parent for run in runs for parent in run.parents}))
    batches: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        lost = [parent for parent in run.parents if states[parent] not in {FINISHED, *UNDER_WAY}]
        if lost:
            say(
                [
                    f"{run.name}: not launched, because {lost[0]} is {states[lost[0]]}. Launch that first."
                ]
            )
            continue
        after = tuple(job_of(parent) for parent in run.parents if states[parent] in UNDER_WAY)
        batches.setdefault(after, []).append(run)
    around = look_around()
    for after, batch in batches.items():
        launches = [run.launch for run in batch]
        for launch in launches:
            script = sbatch_script(launch) if executor_of(launch) == SLURM else ""
            write_folder(launch, script, args.snapshot_code, around)
        ids = submit(launches, max_jobs=args.max_jobs, after=after)
        waits = f", after {', '.join(after)}" if after else ""
        say(
            [
                f"{stage.name or 'launched'}: {len(ids):,} job{plural(len(ids))}{waits}: {', '.join(ids)}"
            ]
        )
        yield from (run.save_dir for run in batch)


def job_of(save_dir: Path) -> str:
    """The job that a run is under way as."""
    job = last_job(save_dir)
    assert job is not None, "its state is that of a job"
    return job.id


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201
