"""`metaseq launch status` over many runs, beside one run, a bare Python, and an import of torch.

    python -m benchmarks.launched_runs
    python -m benchmarks.launched_runs --runs 1000 --log-lines 20000

(1) a run folder is made as one that runs on SLURM, with a log, and copied; squeue is a script that knows all jobs;
(2) each contender is a process from its start to its end, and they take turns;
(3) the best time of each is printed, as a ratio to the bare Python's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Mapping, Sequence

from metaseq_plugin.launch.folders.events import record
from metaseq_plugin.launch.folders.explain import Around, write_folder
from metaseq_plugin.launch.spec import LAUNCH, Launch, Resources, RunSpec, Survival

BARE = "python -c pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="run folders")
    parser.add_argument("--log-lines", type=int, default=5_000, help="lines of each log")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder) / "runs", options.runs, options.log_lines)
        make_squeue(Path(folder) / "bin", options.runs)
        status = [str(Path(sys.executable).with_name("metaseq")), "launch", "status"]
        contenders = {
            BARE: [sys.executable, "-c", "pass"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "status of 1 run": [*status, f"{folder}/runs/run0"],
            f"status of {options.runs} runs": [*status, f"{folder}/runs"],
        }
        path = f"{folder}/bin:{os.environ['PATH']}"
        best = take_turns(contenders, {**os.environ, "PATH": path}, options.rounds)
    for name, seconds in best.items():
        print(f"{name:<26}{seconds:8.3f} s{seconds / best[BARE]:8.1f} x")


def make_runs(folder: Path, number: int, log_lines: int) -> None:
    """Copies of one run, each with a job of its own."""
    run = folder / "run0"
    spec = RunSpec("data", run, {"arch": "opt_125m", "max-update": 572_204})
    write_folder(Launch(spec, Resources(), Survival()), around=Around({}, ()))
    for kind in ("submitted", "started"):
        record(run, kind, job="1_0")
    log = run / LAUNCH / "logs/rank-0.log"
    log.parent.mkdir()
    log.write_text("".join(map(log_line, range(1, log_lines + 1))))
    for copy in range(number):
        place = folder / f"run{copy}"
        if copy:
            shutil.copytree(run, place)
        job = {"id": f"1_{copy}", "executor": "slurm", "host": "login", "time": 0.0}
        (place / LAUNCH / "jobs.jsonl").write_text(json.dumps(job) + "\n")


def log_line(update: int) -> str:
    row = {"epoch": 1, "loss": "3.214", "ppl": "9.28", "wps": "104000.1", "ups": "0.2", "wpb": "524288",
           "num_updates": str(update), "lr": "0.0006", "gnorm": "0.827", "wall": "3"}  # fmt: skip
    return f"2026-11-27 18:50:00 | INFO | train_inner | {json.dumps(row)}\n"


def make_squeue(folder: Path, number: int) -> None:
    """A squeue that answers at once."""
    folder.mkdir()
    answer = folder / "answer"
    answer.write_text("".join(f"1_{job}|RUNNING\n" for job in range(number)))
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\ncat {answer}\n")
    program.chmod(0o755)


def take_turns(
    contenders: Mapping[str, Sequence[str]], environment: Mapping[str, str], rounds: int
) -> dict[str, float]:
    """The best seconds of each command."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, command in contenders.items():
            start = time.perf_counter()
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
