"""What ``metaseq launch sweep.yaml`` prints: a screen of summary, then for a dry run every command."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from metaseq_plugin.launch.recipe import folded
from metaseq_plugin.launch.spec import PROGRAM, Resources
from metaseq_plugin.launch.sweep.points import Point
from metaseq_plugin.launch.sweep.sweep import BEST, EACH, Run, Stage, Sweep

MAX_VALUES_SHOWN = 8
STARTS = {EACH: "each from a run of {}", BEST: "all from the best of {}"}


def summary(sweep: Sweep, states: Mapping[Path, str], to_launch: int) -> Iterator[str]:
    """How many runs there are, of how many ranks, what varies, and how they stand.

    Args:
        states: of every run folder.
        to_launch: how many runs were chosen.
    """
    number = sum(len(stage.runs) for stage in sweep.stages)
    yield f"{sweep.path}: {number:,} run{plural(number)}, {to_launch:,} to launch"
    for stage in sweep.stages:
        yield f"  {stage_line(stage)}"
        for key in stage.varies:
            yield f"    {key}: {values_shown([run.point for run in stage.runs], key)}"
        if stage.repeated:
            yield f"    {stage.repeated:,} point{plural(stage.repeated)} more are there already, and run once"
        counts = Counter(states[run.save_dir] for run in stage.runs)
        yield f"    now: {', '.join(f'{count:,} {state}' for state, count in counts.items())}"
        if stage.waits:
            yield f"    waits {stage.waits}; then the same command launches it"


def stage_line(stage: Stage) -> str:
    sizes = Counter(ranks_shown(run.launch.resources) for run in stage.runs)
    parts = [
        f"{stage.name or 'runs'}: {', '.join(f'{n:,} of {size}' for size, n in sizes.items())}"
    ]
    if stage.after:
        parts.append(f"after {stage.after}")
    if stage.start and stage.after:
        parts.append(STARTS[stage.start].format(stage.after))
    return "; ".join(parts)


def ranks_shown(resources: Resources) -> str:
    ranks, nodes = resources.num_ranks, resources.nodes
    return f"{ranks:,} rank{plural(ranks)} on {nodes:,} node{plural(nodes)}"


def values_shown(points: Sequence[Point], key: str) -> str:
    """The different values of ``key``; of many the first, the number and the last."""
    values = list(dict.fromkeys(str(point.values.get(key, "not given")) for point in points))
    if len(values) <= MAX_VALUES_SHOWN:
        return ", ".join(values)
    return f"{', '.join(values[:3])}, … ({len(values):,} values) …, {values[-1]}"


def listing(runs: Sequence[Run]) -> Iterator[str]:
    """Each name and its exact command."""
    for run in runs:
        yield f"\n# {run.name}"
        yield folded([PROGRAM, *map(shlex.quote, run.launch.spec.words())])


def plural(number: int) -> str:
    return "" if number == 1 else "s"
