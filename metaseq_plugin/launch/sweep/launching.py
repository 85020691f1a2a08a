"""``metaseq launch sweep.yaml``: the runs that are asked for, submitted stage by stage.

    metaseq launch sweep.yaml --dry-run           lists every command, and writes nothing
    metaseq launch sweep.yaml --max-jobs 8        what was never launched
    metaseq launch sweep.yaml --only failed       what has ended before its end

The steps: (1) the file is read and checked as a whole; (2) runs are chosen by the state of their folders; one that
is queued or runs is left alone; (3) of each stage, in order, those that wait for the same runs are submitted together,
with equal resources as one array; (4) what cannot be launched yet is named, with the reason.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

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
from metaseq_plugin.launch.resource_options import check_slurm, override
from metaseq_plugin.launch.sweep.reading import read_sweep
from metaseq_plugin.launch.sweep.screen import listing, plural, summary
from metaseq_plugin.launch.sweep.sweep import Run, Stage, Sweep

# --only -> the states of the runs that it launches
ENDED = (FAILED, GAVE_UP, STOPPED)
ONLY: Mapping[str, Sequence[str]] = {
    "missing": (NEW,),
    "failed": ENDED,
    "all": (NEW, *ENDED, FINISHED),
}
UNDER_WAY = (QUEUED, RUNS)
# Options of `metaseq launch` -> the key of the file where a sweep has it.
IN_THE_FILE = {"data": "data", "save_dir": "save_dir", "batch_tokens": "options", "without": "options", "more": "options"}  # fmt: skip

States = Mapping[Path, str]


def add_sweep_options(group: Any) -> None:
    """Add those of ``metaseq launch`` that only a sweep has."""
    group.add_argument("--only", choices=list(ONLY), default="missing", help="runs that were never launched, that ended before their end, or all but those under way (default: %(default)s)")  # fmt: skip
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

    Args:
        args: of ``metaseq launch``.

    Raises:
        UserError: a mistake in the file or the options, or a run whose state cannot be known.
    """
    check_options(args)
    sweep = read_sweep(path, lambda launch: override(launch, args))
    states = states_of([run.save_dir for run in sweep.runs()])
    chosen = [
        [run for run in stage.runs if states[run.save_dir] in ONLY[args.only]]
        for stage in sweep.stages
    ]
    say(summary(sweep, states, sum(map(len, chosen))))
    if args.dry_run:
        say(dry_run([run for runs in chosen for run in runs]))
        return
    for runs in chosen:
        for run in runs:
            check_slurm(run.launch.resources)
    for stage, runs in zip(sweep.stages, chosen):
        if runs and not stage.waits:
            say(launch_stage(stage, runs, args))
    say(next_words(sweep))


def dry_run(runs: Sequence[Run]) -> Iterator[str]:
    """Each command, and a script of sbatch for each of the different resources."""
    yield from listing(runs)
    shown = []
    for run in runs:
        launch = run.launch
        if launch.resources not in shown and executor_of(launch) == SLURM:
            shown.append(launch.resources)
            yield f"\n# what sbatch is given for {run.name} and others like it"
            yield sbatch_script(launch).rstrip()


def launch_stage(stage: Stage, runs: Sequence[Run], args: Namespace) -> Iterator[str]:
    """Submit ``runs`` of a stage; says what was, and what was not."""
    states = states_of(list({parent for run in runs for parent in run.parents}))
    batches: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        lost = [p for p in run.parents if states[p] not in (FINISHED, *UNDER_WAY)]
        if lost:
            yield f"{run.name}: not launched: {lost[0]} is {states[lost[0]]}; launch that first, then the same again"
        else:
            after = tuple(job_of(p) for p in run.parents if states[p] in UNDER_WAY)
            batches.setdefault(after, []).append(run)
    around = look_around()
    for after, batch in batches.items():
        launches = [run.launch for run in batch]
        for launch in launches:
            script = sbatch_script(launch) if executor_of(launch) == SLURM else ""
            write_folder(launch, script, args.snapshot_code, around)
        ids = submit(launches, max_jobs=args.max_jobs, after=after)
        waits = f", after {', '.join(after)}" if after else ""
        yield f"{stage.name or 'launched'}: {len(ids):,} job{plural(len(ids))}{waits}: {', '.join(ids)}"


def job_of(save_dir: Path) -> str:
    """The job that a run is under way as."""
    job = last_job(save_dir)
    assert job is not None, "its state is that of a job"
    return job.id


def next_words(sweep: Sweep) -> Iterator[str]:
    """How to look after the runs."""
    for folder in sorted({stage.folder for stage in sweep.stages}):
        yield f"    metaseq launch status {folder}"


def say(lines: Iterator[str]) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201
