"""Start an OPT baseline or a sweep of runs, and look after them.

    metaseq launch opt_125m --data data --save-dir runs/125m --nodes 2 --gpus-per-node 8 --time 72:00:00
    metaseq launch opt_125m --data data --save-dir runs/125m --nodes 2 --gpus-per-node 8 --lr 3e-4 --dry-run
    metaseq launch sweep.yaml --max-jobs 4
    metaseq launch status runs      how all runs stand; also: stop RUN, logs RUN -f

WHAT is a baseline's name or a sweep file (.yaml, .yml or .py). It comes first. What is no option of this command is
one of fairseq-train's, and counts more than the recipe's. The same command again goes on where a run ended.
"""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any, Mapping

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import BASELINES, BATCH_TOKENS, baseline
from metaseq_plugin.launch.fairseq_options import read_words
from metaseq_plugin.launch.folders.explain import write_folder
from metaseq_plugin.launch.folders.reading import read_launch
from metaseq_plugin.launch.folders.standing import FINISHED, NEW
from metaseq_plugin.launch.folders.status import state_of
from metaseq_plugin.launch.jobs.submit import SLURM, executor_of, sbatch_script, submit
from metaseq_plugin.launch.recipe import components, folded, recipe, summary
from metaseq_plugin.launch.resource_options import (
    add_resource_options,
    check_signal,
    resources,
    survival,
)
from metaseq_plugin.launch.spec import PROGRAM, Launch, Value
from metaseq_plugin.launch.sweep.launching import (
    MISSING,
    UNDER_WAY,
    add_sweep_options,
    launch_sweep,
    wait_for,
)

TAKES_MORE = True  # options of fairseq-train, as args.more
SWEEP_FILES = (".yaml", ".yml", ".py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s WHAT [options] [options of fairseq-train]"
    parser.add_argument("what", metavar="WHAT", help=f"{', '.join(BASELINES)}; or a sweep file")
    parser.add_argument("--data", metavar="DATA", help="the data folder")
    parser.add_argument("--save-dir", type=Path, metavar="DIR", help="the run folder")
    parser.add_argument(f"--{BATCH_TOKENS}", metavar="N", help="of an update, as 524288 or 0.5M (default: the baseline's)")  # fmt: skip
    parser.add_argument("--without", default="", metavar="NAMES", help="options of the recipe to leave out, as checkpoint-activations,fp16")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and write nothing")  # fmt: skip
    parser.add_argument("--wait", action="store_true", help="until the run has ended")
    parser.add_argument("--snapshot-code", action="store_true", help="run a copy of the plugin's code as it is now")  # fmt: skip
    add_resource_options(parser)
    add_sweep_options(parser.add_argument_group("of a sweep"))


def run(args: Any) -> None:
    launch_sweep(Path(args.what), args) if args.what.endswith(SWEEP_FILES) else launch_one(args)


def launch_one(args: Any) -> None:
    """Launch a baseline, or with ``args.dry_run`` show it."""
    launch = launch_of(args)
    if args.dry_run:
        show(launch)
    elif may_start(launch):
        start(launch, args.snapshot_code)
        if args.wait:
            wait_for([launch.spec.save_dir])
            say(f"{launch.spec.save_dir}: {FINISHED}")


def launch_of(args: Any) -> Launch:
    """What ``args`` ask for.

    Raises:
        UserError: anything that no run can use.
    """
    row = baseline(args.what)
    if args.max_jobs is not None or args.only != MISSING:
        option = "--only" if args.max_jobs is None else "--max-jobs"
        raise UserError(
            f"`{option}` must come with a sweep file, but WHAT is {args.what}. Leave it out."
        )
    for name in ("data", "save_dir"):
        if vars(args)[name] is None:
            option = name.replace("_", "-")
            raise UserError(f"`--{option}` must name a folder, but is missing. Set it.")
    where, alive = resources(args), survival(args)
    check_signal(where, alive)
    check_save_dir(args.save_dir)
    typed = read_words(args.more, components(row, args.data))
    overrides = {**left_out(args.without), **typed, **batch(args)}
    return recipe(row, args.data, args.save_dir, overrides, where, alive)


def batch(args: Any) -> Mapping[str, Value]:
    tokens = vars(args)[BATCH_TOKENS.replace("-", "_")]
    return {} if tokens is None else {BATCH_TOKENS: tokens}


def left_out(names: str) -> dict[str, Value]:
    """The options that ``--without`` names, as overrides."""
    return dict.fromkeys(
        name.strip().removeprefix("--") for name in names.split(",") if name.strip()
    )


def check_save_dir(save_dir: Path) -> None:
    """Refuse a run folder that cannot be made or written."""
    try:
        nearest = next(
            folder for folder in (save_dir, *save_dir.absolute().parents) if folder.exists()
        )
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise UserError(
            f"`--save-dir` must be a folder that can be written, but {save_dir} is not ({error.strerror}). Set another."
        ) from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "is not a folder" if not nearest.is_dir() else "may not be written"
        raise UserError(
            f"`--save-dir` must be a folder that can be written, but {nearest} {why}. Set another."
        )


def may_start(launch: Launch) -> bool:
    """Whether there is something to start; says what is found in the run folder.

    Raises:
        UserError: the run is still under way.
    """
    save_dir = launch.spec.save_dir
    state = state_of(save_dir)
    if state in UNDER_WAY:
        raise UserError(
            f"`--save-dir` must be of no run that is under way, but {save_dir} is {state}. Wait for it, end it with "
            f"`metaseq launch stop {shlex.quote(str(save_dir))}`, or set another."
        )
    if state == FINISHED:
        before, now = (int(str(spec.options.get("max-update", 0))) for spec in (read_launch(save_dir).spec, launch.spec))  # fmt: skip
        if now <= before:
            say(
                f"{save_dir}: has finished its {before:,} updates; nothing to do. A larger --max-update goes on."
            )
            return False
    if state != NEW:
        say(f"{save_dir}: {state}; goes on from its newest checkpoint")
    return True


def show(launch: Launch) -> None:
    """Print the exact command and, for SLURM, the script."""
    say(f"# {summary(launch)}")
    say(folded([PROGRAM, *map(shlex.quote, launch.spec.words())]))
    # What SLURM would be given can be shown where there is none.
    if launch.resources.executor == SLURM or executor_of(launch) == SLURM:
        say(f"\n# sbatch {launch.spec.save_dir}/launch/job.sbatch")
        say(sbatch_script(launch).rstrip())
    else:
        say(f"\n# as {launch.resources.num_ranks} processes on this machine")


def start(launch: Launch, snapshot_code: bool) -> None:
    """Write what explains the run, submit it, and say how to look after it."""
    script = sbatch_script(launch) if executor_of(launch) == SLURM else ""
    write_folder(launch, script, snapshot_code)
    (job,) = submit([launch])
    folder = shlex.quote(str(launch.spec.save_dir))
    say(summary(launch))
    say(f"job {job}: {folder}")
    for command in (f"status {folder}", f"logs {folder} -f", f"stop {folder}"):
        say(f"    metaseq launch {command}")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
