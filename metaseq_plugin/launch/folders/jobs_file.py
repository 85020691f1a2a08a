"""The jobs that a run was submitted as, the last one last: JSON lines in ``SAVE_DIR/launch/jobs.jsonl``.

    add_job(save_dir, "17_3", "slurm")          # by whoever submits, once sbatch has given the number
    last_job(save_dir)                          # Job(id="17_3", executor="slurm", …)

A job of the local executor is a process of this host, of which submitit's job id is the number; that of the debug
executor is the process that submits. When it was made tells it from another that has its number later.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from metaseq_plugin.launch.folders.events import append_line
from metaseq_plugin.launch.spec import LAUNCH
from metaseq_plugin.storage.json_lines import read_lines

FILE = "jobs.jsonl"


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        id: SLURM's number, "17", or "17_3" of an array; else submitit's.
        executor: "slurm", "local" or "debug".
        host: where it was submitted.
        time: when, in seconds since 1970.
        process, created: of the local executors: its number, and when it began in seconds since 1970.
    """

    id: str
    executor: str
    host: str
    time: float
    process: Optional[int] = None
    created: Optional[float] = None


def add_job(save_dir: Path, job_id: str, executor: str) -> None:
    """Append a job of this host.

    Raises:
        OSError: the file cannot be written.
    """
    process = None
    if executor != "slurm":
        process = int(job_id) if executor == "local" else os.getpid()
    job = Job(
        job_id, executor, socket.gethostname(), round(time.time(), 3), process, created_at(process)
    )
    append_line(save_dir / LAUNCH / FILE, json.dumps(asdict(job)))


def created_at(process: Optional[int]) -> Optional[float]:
    """When a process of this host began, in seconds since 1970; None where there is none, or a zombie."""
    import psutil

    if process is None:
        return None
    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.NoSuchProcess:
        return None


def last_job(save_dir: Path) -> Optional[Job]:
    """The job that the run was last submitted as; None where there is none.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = [parse_job(line) for line in read_lines(save_dir / LAUNCH / FILE)]
    jobs = [job for job in found if job is not None]
    return jobs[-1] if jobs else None


def parse_job(line: bytes) -> Optional[Job]:
    """The job in a line, or None: a torn line, or one that is not ours."""
    try:
        fields: dict[str, Any] = json.loads(line)
        job = Job(**fields)
    except (ValueError, TypeError, RecursionError):
        return None
    texts, numbers = (
        (job.id, job.executor, job.host),
        (job.time, job.process or 0, job.created or 0),
    )
    is_ours = all(type(text) is str for text in texts)
    return job if is_ours and all(type(number) in (int, float) for number in numbers) else None
