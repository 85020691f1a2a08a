"""``resources:`` and ``survival:`` of a sweep file, as ``spec.py`` has them.

    resources: {nodes: 2, gpus_per_node: 8, time: "72:00:00", partition: gpu, slurm: {nice: 100}}
    survival: {max_restarts: 3, restore_file: start.pt}

``ranks_per_node`` instead of ``gpus_per_node`` is for machines without GPUs. ``time`` is as sbatch has it: minutes,
MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]]. Other options of sbatch stand below ``slurm``
by their long names.
"""

import re
from dataclasses import fields
from typing import Any, Callable, Mapping

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.resource_options import EXECUTORS, LAUNCHERS, SBATCH, read_minutes
from metaseq_plugin.launch.spec import Resources, Survival
from metaseq_plugin.launch.sweep.marked import Marked, SweepError

# Options of sbatch that the launcher sets itself.
OWN = {
    "nodes": "nodes", "time": "time", "gpus-per-node": "gpus_per_node", "cpus-per-task": "cpus_per_rank",
    "ntasks-per-node": "gpus_per_node", "array": "--max-jobs", "dependency": "after", "output": "save_dir",
    "error": "save_dir", "signal": "survival.signal_seconds", "requeue": "survival.max_restarts",
    "job-name": "save_dir",
}  # fmt: skip


def minutes(marked: Marked) -> int:
    """A time limit in minutes."""
    if isinstance(marked.content, bool) or not isinstance(marked.content, (str, int)):
        raise marked.refused("be a time as sbatch has it", "Write 72:00:00.")
    try:
        return read_minutes(str(marked.content))
    except UserError:
        raise marked.refused(
            "be HOURS:MINUTES:SECONDS, DAYS-HOURS or minutes", "Write 72:00:00."
        ) from None


def at_least(least: int) -> Callable[[Marked], int]:
    return lambda marked: marked.whole(least)


def not_negative(marked: Marked) -> float:
    if marked.number() < 0:
        raise marked.refused("be at least 0", "Write 0 or more.")
    return marked.number()


def hang_factor(marked: Marked) -> float:
    if 0 < not_negative(marked) <= 1:
        raise marked.refused("be above 1, or 0 for never", "Write 20.")
    return marked.number()


def line(marked: Marked) -> str:
    """A value of sbatch, as text that stays on its line of a script."""
    text = str(marked.content) if type(marked.content) is int else marked.text()
    if not text.strip() or not text.isprintable():
        raise marked.refused("be text on one line", "Write it so, or leave it out.", repr(text))
    return text


def sbatch_options(marked: Marked) -> dict[str, Any]:
    """Further options of sbatch: text, whole numbers, or true."""
    options = {}
    for key, entry in marked.fields().items():
        if key in OWN:
            raise entry.refused("be none that the launcher sets itself", f"Set {OWN[key]}.", "one")
        if not re.fullmatch(r"[a-z][a-z-]*", key):
            raise entry.refused("be a long option of sbatch without dashes in front", "Write it as in `nice: 100`.", "another")  # fmt: skip
        options[key] = entry.content if isinstance(entry.content, bool) else line(entry)
    return options


RESOURCES: Mapping[str, Callable[[Marked], Any]] = {
    "executor": lambda marked: marked.one_of(EXECUTORS),
    "nodes": at_least(1),
    "gpus_per_node": at_least(1),
    "ranks_per_node": at_least(1),
    "cpus_per_rank": at_least(1),
    "time": minutes,
    "launcher": lambda marked: marked.one_of(LAUNCHERS),
    "slurm": sbatch_options,
    **dict.fromkeys(SBATCH, line),
}
SURVIVAL: Mapping[str, Callable[[Marked], Any]] = {
    "max_restarts": at_least(0),
    "backoff": not_negative,
    "hang_factor": hang_factor,
    "hang_seconds": not_negative,
    "signal_seconds": at_least(1),
    "restore_file": lambda marked: marked.text(),
}
assert set(SURVIVAL) == {field.name for field in fields(Survival)}


def read_resources(entries: Mapping[str, Marked], place: str) -> Resources:
    """What the entries of ``resources`` ask for.

    Args:
        place: where they are missing, if they are.

    Raises:
        SweepError: a bad value, or GPUs and ranks without any at once, or neither.
    """
    if not {"gpus_per_node", "ranks_per_node"} & entries.keys():
        raise SweepError(
            f"{place}: `resources` must have gpus_per_node, or on CPUs ranks_per_node, but has neither. "
            "Write one of them."
        )
    read = {key: RESOURCES[key](entry) for key, entry in entries.items()}
    if "gpus_per_node" in read and "ranks_per_node" in read:
        raise entries["ranks_per_node"].refused("be left out with gpus_per_node", "Leave one out.", "there")  # fmt: skip
    slurm = {key: read.pop(key) for key in SBATCH if key in read}
    chosen: dict[str, Any] = {
        "ranks_per_node": read.pop("gpus_per_node", read.pop("ranks_per_node", 1)),
        "uses_gpus": "ranks_per_node" not in entries,
        "slurm": {**read.pop("slurm", {}), **slurm},
    }
    if "time" in read:
        chosen["minutes"] = read.pop("time")
    return Resources(**read, **chosen)


def read_survival(entries: Mapping[str, Marked]) -> Survival:
    """What the entries of ``survival`` ask for; a bad value is a SweepError."""
    return Survival(**{key: SURVIVAL[key](entry) for key, entry in entries.items()})
