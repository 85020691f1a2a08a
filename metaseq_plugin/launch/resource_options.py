"""The options of ``metaseq launch`` that say where a run computes and how it is kept alive.

add_resource_options(parser)
resources(args), survival(args)      # a Resources and a Survival of spec.py

override(launch, args)               the same for a launch that is there, as of a sweep: only what is given changes
"""

import argparse
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import Launch, Resources, Survival

EXECUTORS = ("auto", "slurm", "local", "debug")
LAUNCHERS = ("ranks", "torchrun")
# Of sbatch, as there.
SBATCH = {
    "partition": "where to run",
    "account": "who pays",
    "qos": "quality of service",
    "constraint": "features that the nodes must have",
    "exclude": "nodes that must not be taken, as in n[1-3],n7",
    "reservation": "a reservation to run in",
    "mem": "memory of a node, as in 500G",
    "comment": "a note",
}
# What the options of a launch that is there were made for.
OF_THE_BATCH = ("nodes", "gpus_per_node", "ranks_per_node", "cpu")
# A time as sbatch reads it, but no "unlimited".
TIME = re.compile(
    r"(?:(?P<days>\d{1,4})-(?P<hours>\d{1,2})(?::(?P<minutes>\d{1,2})(?::(?P<seconds>\d{1,2}))?)?"
    r"|(?P<clock_hours>\d{1,5}):(?P<clock_minutes>\d{1,2}):(?P<clock_seconds>\d{1,2})"
    r"|(?P<only_minutes>\d{1,6})(?::(?P<only_seconds>\d{1,2}))?)"
)
SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
# Option -> the least that it may be.
LEAST = {
    "nodes": 1,
    "gpus_per_node": 1,
    "ranks_per_node": 1,
    "cpus_per_rank": 1,
    "max_restarts": 0,
    "backoff": 0,
    "hang_factor": 0,
    "hang_seconds": 0,
    "signal_seconds": 1,
}


def add_resource_options(parser: argparse.ArgumentParser) -> None:
    """Add them; what is not given is None, so that it can be told from a default."""
    where = parser.add_argument_group("where it computes")
    where.add_argument(
        "--executor",
        choices=EXECUTORS,
        help=f"default: {Resources.executor}, slurm where there is one",
    )
    where.add_argument("--nodes", type=int, metavar="N", help=f"default: {Resources.nodes}")
    where.add_argument("--gpus-per-node", type=int, metavar="N", help="a rank for each")
    where.add_argument("--cpu", action="store_true", help="compute on CPUs")
    where.add_argument(
        "--ranks-per-node", type=int, metavar="N", help="with --cpu: processes a node (default: 1)"
    )
    where.add_argument("--cpus-per-rank", type=int, metavar="N", help="default: the cluster's")
    where.add_argument(
        "--time", metavar="T", help="of one job, as 72:00:00, 3-00 or minutes (default: 72:00:00)"
    )
    where.add_argument(
        "--launcher", choices=LAUNCHERS, help="who starts the ranks of a node (default: ranks)"
    )
    for name, text in SBATCH.items():
        where.add_argument(f"--{name}", metavar=name.upper()[:9], help=f"sbatch's: {text}")
    alive = parser.add_argument_group("how it is kept alive")
    alive.add_argument(
        "--max-restarts",
        type=int,
        metavar="N",
        help=f"in a row from the same save, after crashes and hangs (default: {Survival.max_restarts})",
    )
    alive.add_argument(
        "--backoff",
        type=float,
        metavar="S",
        help=f"seconds before the first restart; doubled by each further one that made no update, up to 10 minutes (default: {Survival.backoff:g})",
    )
    alive.add_argument(
        "--hang-factor",
        type=float,
        metavar="X",
        help=f"no update for so many times the median one is a hang; 0: never (default: {Survival.hang_factor:g})",
    )
    alive.add_argument(
        "--hang-seconds",
        type=float,
        metavar="S",
        help=f"and at least so many seconds (default: {Survival.hang_seconds:g})",
    )
    alive.add_argument(
        "--signal-seconds",
        type=int,
        metavar="S",
        help=f"before the time limit, to save and be queued again (default: {Survival.signal_seconds})",
    )
    alive.add_argument(
        "--restore-file", metavar="PATH", help="the checkpoint to start from before the first save"
    )


def read_minutes(text: str) -> int:
    """A time limit as sbatch reads it, in minutes; seconds are rounded up.

    Raises:
        UserError: another form, or no time at all.
    """
    found = TIME.fullmatch(text.strip())
    parts = (
        {}
        if found is None
        else {
            name.rpartition("_")[2]: int(value)
            for name, value in found.groupdict().items()
            if value
        }
    )
    minutes = math.ceil(sum(SECONDS[name] * value for name, value in parts.items()) / 60)
    if minutes < 1:
        raise UserError(
            f"`--time` must be hours:minutes:seconds, days-hours or minutes, but is {text}. Set for example 72:00:00."
        )
    return minutes


def check_ranges(args: argparse.Namespace) -> None:
    """Refuse numbers that are too small, and text that would not stay on its line of a script."""
    problems = []
    for name, least in LEAST.items():
        value = vars(args)[name]
        if value is not None and not least <= value < math.inf:  # nan is not, either
            rule, remedy = (
                ("finite", "less") if value == math.inf else (f"at least {least}", "more")
            )
            problems.append(
                f"`--{name.replace('_', '-')}` must be {rule}, but is {value}. Set {remedy}."
            )
    if args.hang_factor is not None and 0 < args.hang_factor <= 1:
        problems.append(
            f"`--hang-factor` must be above 1, or 0, but is {args.hang_factor:g}. Set for example {Survival.hang_factor:g}."
        )
    for name in SBATCH:
        value = vars(args)[name]
        if value is not None and (not value.strip() or not value.isprintable()):
            problems.append(
                f"`--{name}` must be text on one line, but is {value!r}. Leave it out, or set some."
            )
    if args.gpus_per_node is not None and (args.cpu or args.ranks_per_node is not None):
        other = "--cpu" if args.cpu else "--ranks-per-node"
        problems.append(
            f"`--gpus-per-node` must be left out with {other}, but is {args.gpus_per_node}. Leave one out."
        )
    elif args.ranks_per_node is not None and not args.cpu:
        problems.append(
            f"`--ranks-per-node` must come with --cpu, but is {args.ranks_per_node} without. Set --gpus-per-node instead."
        )
    if problems:
        raise UserError(*problems)


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of ``kind``, Resources or Survival, that ``args`` set."""
    names = {field.name for field in fields(kind)} & vars(args).keys()
    found = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    if kind is Resources:
        slurm = {name: vars(args)[name] for name in SBATCH if vars(args)[name] is not None}
        found |= {"slurm": slurm} if slurm else {}
        found |= {"minutes": read_minutes(args.time)} if args.time is not None else {}
        found |= {"ranks_per_node": args.gpus_per_node} if args.gpus_per_node is not None else {}
        found |= {"uses_gpus": not args.cpu} if args.cpu or args.gpus_per_node is not None else {}
    return found


def resources(args: argparse.Namespace) -> Resources:
    """Where the run computes, in numbers that can be.

    Raises:
        UserError: neither --gpus-per-node nor --cpu, or what cannot be.
    """
    check_ranges(args)
    if args.gpus_per_node is None and not args.cpu:
        raise UserError(
            "`--gpus-per-node` or `--cpu` must be given, but neither is. Set one of them."
        )
    return Resources(**given(args, Resources))


def survival(args: argparse.Namespace) -> Survival:
    """How the run is kept alive."""
    check_ranges(args)
    if args.restore_file is not None:
        check_checkpoint(Path(args.restore_file))
    return Survival(**given(args, Survival))


def override(launch: Launch, args: argparse.Namespace) -> Launch:
    """``launch`` with what ``args`` set.

    Raises:
        UserError: another number of ranks, of which the batch is made, or what cannot be.
    """
    check_ranges(args)
    for name in OF_THE_BATCH:
        if vars(args)[name]:
            raise UserError(
                f"`--{name.replace('_', '-')}` must stand in the sweep file, but is on the command line. Set it "
                "below `resources`: each run's batch is shared out to its ranks."
            )
    asked = given(args, Resources)
    if "slurm" in asked:
        asked["slurm"] = {**launch.resources.slurm, **asked["slurm"]}
    changed = replace(
        launch,
        resources=replace(launch.resources, **asked),
        survival=replace(launch.survival, **given(args, Survival)),
    )
    check_signal(changed.resources, changed.survival)
    return changed


def check_signal(asked: Resources, alive: Survival) -> None:
    """Refuse a job that would be told to save before it has begun."""
    if alive.signal_seconds >= 60 * asked.minutes:
        raise UserError(
            f"`--signal-seconds` must be less than --time ({60 * asked.minutes:,} seconds), but is "
            f"{alive.signal_seconds}. Set either."
        )


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint of which no file is there; that of a set has several, with names of their own."""
    if not path.is_file() and not any(path.parent.glob(f"{path.stem}-*{path.suffix}")):
        raise UserError(
            f"`--restore-file` must name a checkpoint, but {path} does not exist. Check the path."
        )
