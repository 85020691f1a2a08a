"""A ``--user-dir`` for ranks of trials: metaseq_plugin, and updates as ``SAVE_DIR/trial.json`` wants them.

    {"seconds": 0.1}                every update takes so long
    {"act": "raise", "at": 7}       rank 0 fails at update 7, each time it comes there
    {"act": "kill", "at": 7, "times": 1}      rank 0 kills itself there, the first time only
    {"act": "hang", "at": 7, "times": 1}      rank 0 waits there for ever, the first time only

Every rank appends a line to ``SAVE_DIR/rows-RANK.jsonl`` behind each update: its number, when, and whose it is.
"""

import json
import os
import signal
import time
from functools import wraps
from pathlib import Path
from typing import Any, Dict

from fairseq.trainer import Trainer

import metaseq_plugin  # noqa: F401  registers everything

_train_step = Trainer.train_step


def misbehave(save_dir: Path, trial: Dict[str, Any]) -> None:
    if "times" in trial:
        marks = save_dir / "misbehaved"
        with marks.open("a") as stream:
            stream.write("x")
        if marks.stat().st_size > trial["times"]:
            return
    if trial["act"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while trial["act"] == "hang":
        time.sleep(1.0)
    raise RuntimeError(f"update {trial['at']} is poisoned")


@wraps(_train_step)
def train_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
    save_dir, rank = Path(trainer.cfg.checkpoint.save_dir), trainer.data_parallel_rank
    trial = json.loads((save_dir / "trial.json").read_text())
    time.sleep(trial.get("seconds", 0.0))
    if rank == 0 and trial.get("at") == trainer.get_num_updates() + 1:
        misbehave(save_dir, trial)
    output = _train_step(trainer, *args, **kwargs)
    row = {
        "update": trainer.get_num_updates(),
        "time": time.time(),
        "process": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "node": os.environ.get("SLURMD_NODENAME"),
    }
    with (save_dir / f"rows-{rank}.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    return output


Trainer.train_step = train_step
