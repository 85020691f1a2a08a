"""The best run of a stage: of those that have finished, the one whose loss in validation was lowest.

fairseq writes into rank 0's log ``--best-checkpoint-metric`` of each validation, and from the second one on the best:

    … | INFO | valid | {"epoch": 1, "valid_loss": "5.213", …, "valid_num_updates": "50", "valid_best_loss": "5.2"}
    … | INFO | valid | epoch 001 | valid on 'valid' subset | loss 5.213 | … | num_updates 50 | best_loss 5.2

As for fairseq, the first of several subsets counts, and with ``--maximize-best-checkpoint-metric`` the highest value.
Of equal runs the first in the file is the best.
"""

import math
import re
from pathlib import Path
from typing import Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.progress import FIRST_LOG, LOGS, tail
from metaseq_plugin.launch.folders.standing import FINISHED, NEW, QUEUED, RUNS
from metaseq_plugin.launch.folders.status import states_of
from metaseq_plugin.launch.spec import LAUNCH
from metaseq_plugin.launch.sweep.sweep import Run, Stage

TAIL_BYTES = 1 << 22
METRIC, SUBSET = "loss", "valid"  # fairseq's defaults
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"


def best_run(stage: Stage) -> tuple[Optional[Run], Optional[str]]:
    """The best run, or None and why there is none yet.

    Raises:
        UserError: all have ended and none can be called the best.
    """
    states = states_of([run.save_dir for run in stage.runs])
    left = [run for run in stage.runs if states[run.save_dir] in (NEW, QUEUED, RUNS)]
    if left:
        return (
            None,
            f"until {stage.name} has ended, of which {len(left)} of {len(stage.runs)} runs have not",
        )
    values = {run.save_dir: value_of(run) for run in stage.runs if states[run.save_dir] == FINISHED}
    ranked = [run for run in stage.runs if values.get(run.save_dir) is not None]
    if not ranked:
        raise UserError(
            f"Stage {stage.name} must have a run that finished and was validated, but of {len(stage.runs)} "
            f"none did. Look at `metaseq launch status {stage.runs[0].save_dir.parent}`."
        )
    return min(ranked, key=lambda run: values[run.save_dir]), None  # type: ignore[arg-type, return-value]


def value_of(run: Run) -> Optional[float]:
    """The run's best value in validation, negative where more is better; None: there is none."""
    options = run.launch.spec.options
    metric = str(options.get("best-checkpoint-metric", METRIC))
    subset = str(options.get("valid-subset", SUBSET)).split(",")[0]
    sign = -1 if options.get("maximize-best-checkpoint-metric") else 1
    values = validated(run.save_dir / LAUNCH / LOGS / FIRST_LOG, subset, metric)
    return min((sign * value for value in values), default=None)


def validated(log: Path, subset: str, metric: str) -> list[float]:
    """The finite values of ``metric``, and of the best until then, in the end of a log."""
    try:
        text = tail(log, TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    subset, metric = re.escape(subset), re.escape(metric)
    patterns = (
        rf'"{subset}_(?:best_)?{metric}": "({NUMBER})"',
        rf"\| valid on '{subset}' subset \|(?:.* \|)? (?:best_)?{metric} ({NUMBER})(?= |$)",
    )
    found = [float(value) for p in patterns for value in re.findall(p, text, re.MULTILINE)]
    return [value for value in found if math.isfinite(value)]
