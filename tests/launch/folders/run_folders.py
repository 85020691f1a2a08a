"""Run folders for tests, and stand-ins for SLURM's commands."""

import json
import shutil
import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.launch.folders import jobs_file
from metaseq_plugin.launch.folders.events import append_line, record
from metaseq_plugin.launch.folders.explain import PACKAGE, Around, write_folder
from metaseq_plugin.launch.spec import LAUNCH, Launch, Resources, RunSpec, Survival

NOWHERE = Around({}, ())
# Lets a child import rooms without the package, as `metaseq launch status` does: no torch, no fairseq.
WITHOUT_PACKAGE = (
    "import sys; package = sys.modules['metaseq_plugin'] = type(sys)('metaseq_plugin');"
    f"package.__path__ = [{str(PACKAGE)!r}];"
)

SUBMITTED: tuple[str, Mapping[str, Any]] = ("submitted", {"job": "17"})
STARTED: tuple[str, Mapping[str, Any]] = ("started", {"job": "17"})
FAILED: tuple[str, Mapping[str, Any]] = (
    "failed", {"rank": 1, "node": "n2", "update": 30, "reason": "loss is not finite"},
)  # fmt: skip


def launch_of(save_dir: Path, max_update: Any = 100, **resources: Any) -> Launch:
    options = {"arch": "opt_8m", "lr": 1e-3, "bf16": True, "max-update": max_update}
    return Launch(RunSpec("data", save_dir, options, "opt_8m"), Resources(**resources), Survival())


def make_run(
    save_dir: Path,
    events: Sequence[tuple[str, Mapping[str, Any]]] = (),
    job: Optional[str] = None,
    executor: str = "slurm",
    log: Sequence[str] = (),
    max_update: Any = 100,
) -> Path:
    """A run folder as it would be after these events."""
    write_folder(launch_of(save_dir, max_update), around=NOWHERE)
    if job is not None:
        jobs_file.add_job(save_dir, job, executor)
    for kind, fields in events:
        record(save_dir, kind, **fields)
    if log:
        write_log(save_dir, log)
    return save_dir


def make_copies(folder: Path, names: Sequence[str], run: Path) -> list[Path]:
    """Runs like ``run``: to write each takes a wait for the disk."""
    return [Path(shutil.copytree(run, folder / name)) for name in names]


def record_at(save_dir: Path, seconds: float, kind: str, **fields: Any) -> None:
    """An event that is ``seconds`` away from now."""
    line = json.dumps({"time": time.time() + seconds, "kind": kind, **fields})
    append_line(save_dir / LAUNCH / "events.jsonl", line)


def write_log(save_dir: Path, lines: Sequence[str], rank: int = 0) -> Path:
    log = save_dir / LAUNCH / "logs" / f"rank-{rank}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return log


def json_line(update: int, loss: float = 8.5, wps: float = 1024.0, wpb: float = 512.0) -> str:
    """A line of training as ``--log-format json`` writes it."""
    row = {"epoch": 1, "update": 0.1, "loss": f"{loss}", "ppl": "362", "wps": f"{wps}", "ups": "0",
           "wpb": f"{wpb}", "bsz": "8", "num_updates": f"{update}", "lr": "0.001", "wall": "3"}  # fmt: skip
    return f"2026-11-27 18:50:00 | INFO | train_inner | {json.dumps(row)}"


def fake(folder: Path, name: str, script: str) -> Path:
    """A command of SLURM that is a shell script; each call is noted in ``NAME.calls``."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    calls = folder / f"{name}.calls"
    program.write_text(f'#!/bin/bash\necho "$@" >> {calls}\n{script}\n')
    program.chmod(0o755)
    return program


def calls(folder: Path, name: str) -> list[str]:
    noted = folder / f"{name}.calls"
    return noted.read_text().splitlines() if noted.exists() else []


def slurm_says(programs: Path, state: str) -> None:
    """Have squeue show job 17 in ``state``; "": not at all."""
    fake(programs, "squeue", f'echo "17|{state}"' if state else "true")
