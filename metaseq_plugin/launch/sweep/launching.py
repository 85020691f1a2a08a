"""``metaseq launch sweep.yaml``: the runs that are asked for, submitted stage by stage.

    launch_sweep(Path("sweep.yaml"), dry_run=True)          lists every command, and writes nothing
    launch_sweep(Path("sweep.yaml"), max_jobs=8)            what was never launched
    launch_sweep(Path("sweep.yaml"), only="failed")         what has ended before its end

The steps: (1) the file is read and checked as a whole; (2) of each stage, in order, runs are chosen by the state of
their folders; (3) those with equal resources and the same runs to wait for become one array; (4) what cannot start
yet is named, with the reason: the same command launches it later. A run that is queued or runs is left alone.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional, Sequence

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
from metaseq_plugin.launch.jobs.submit import sbatch_script, submit, uses_slurm
from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.launch.sweep.reading import read_sweep
from metaseq_plugin.launch.sweep.screen import listing, summary
from metaseq_plugin.launch.sweep.sweep import Run, Stage, Sweep

# --only -> the states of the runs that it launches
ENDED = (FAILED, GAVE_UP, STOPPED)
ONLY: Mapping[str, Sequence[str]] = {
    "missing": (NEW,),
    "failed": ENDED,
    "all": (NEW, *ENDED, FINISHED),
}
