"""A baseline's row, a data folder and what is asked for otherwise, put together as a launch.

launch = recipe(baseline("opt_125m"), "data", Path("runs/a"), {"lr": "1e-4"}, resources, survival)
launch.spec.command()
"""

from pathlib import Path
from typing import Mapping

from metaseq_plugin.launch.baselines import BATCH_TOKENS, COMMON, Baseline, whole
from metaseq_plugin.launch.data_folder import data_options
from metaseq_plugin.launch.fairseq_options import check_options
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival, Value

# Where there are no GPUs; fairseq's ranks would look for NCCL.
ON_CPU: Mapping[str, Value] = {"cpu": True, "distributed-backend": "gloo", "num-workers": 1}


def recipe(
    row: Baseline,
    data: str,
    save_dir: Path,
    overrides: Mapping[str, Value],
    resources: Resources,
    survival: Survival,
) -> Launch:
    """The launch.

    Args:
        overrides: options of ``fairseq-train`` and "batch-tokens" that are wanted otherwise; None leaves one out.

    Raises:
        UserError: options that are unknown or bad, a batch or layout that does not divide, no data.
    """
    wanted = {**({} if resources.uses_gpus else ON_CPU), **overrides}
    plain = {name: value for name, value in wanted.items() if name != BATCH_TOKENS}
    # First: a batch or layout is not made of what is no number.
    check_options({**components(row, data), **plain})
    options = {**data_options(data), **row.options(resources.num_ranks, wanted)}
    return Launch(RunSpec(data, save_dir, options, row.name), resources, survival)


def components(row: Baseline, data: str) -> dict[str, Value]:
    """What decides which options there are: the task, arch and so on of a recipe."""
    return {
        **data_options(data),
        "arch": row.arch,
        **{name: COMMON[name] for name in ("criterion", "optimizer", "lr-scheduler")},
    }


def summary(launch: Launch) -> str:
    """What a launch will train, in a line."""
    options, resources = launch.spec.options, launch.resources
    where = f"{resources.nodes} node{'s' if resources.nodes > 1 else ''}"
    ranks = f"{resources.num_ranks:,} rank{'s' if resources.num_ranks > 1 else ''} on {where}"
    size, freq, parts, block = (
        whole(options, name, 0)
        for name in ("batch-size", "update-freq", "model-parallel-size", "tokens-per-sample")
    )
    shards = resources.num_ranks // parts
    updates = whole(options, "max-update", 0)
    return (
        f"{launch.spec.name}: {ranks}, {size * freq * shards * block:,} tokens an update = --batch-size {size} x "
        f"--update-freq {freq} x {shards} data-parallel x {block:,} tokens; "
        f"{f'{updates:,}' if updates else 'any number of'} updates"
    )


def folded(words: list[str], width: int = 100) -> str:
    """A command over several lines, which a shell reads as one; an option and its value stay together.

    Args:
        words: as a shell reads them, quoted.
    """
    pieces = [words[0]]
    for word in words[1:]:
        if word.startswith("--") or pieces[-1].count(" ") or not pieces[-1].startswith("--"):
            pieces.append(word)
        else:
            pieces[-1] += f" {word}"
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + 3 <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(f"    {piece}")
    return " \\\n".join(lines)
