"""Stop runs: each saves at its next update and is not started again; a job that waits is cancelled.

    metaseq launch stop runs/a
    metaseq launch stop sweeps/lr               all that are queued or run, in and below a folder
    metaseq launch stop runs/a --now            killed: nothing is saved

The steps:
(1) a waiting job is cancelled; the agents of a running one are sent SIGTERM: through scancel, or as a process here;
(2) the jobs are waited for, up to --wait seconds, while the ranks save;
(3) for each run it is said, and recorded as an event, what became of it. To go on, launch it again.
"""

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, printable
from metaseq_plugin.launch.folders.events import Event, record
from metaseq_plugin.launch.folders.jobs_file import last_job
from metaseq_plugin.launch.folders.queue import QueueError
from metaseq_plugin.launch.folders.queue import run as run_command
from metaseq_plugin.launch.folders.reading import find_runs
from metaseq_plugin.launch.folders.standing import (
    NEW,
    QUEUED,
    RUNS,
    STOPPED,
    UNKNOWN,
    Standing,
    standings,
)

WAIT_OPTION = "--wait"
WAIT_SECONDS = 300.0
POLL_SECONDS = (0.3, 2.0)  # of local runs; of SLURM, which many ask
LIVE = (QUEUED, RUNS)
CHECKPOINTS = "checkpoint*.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run folder, or a folder of run folders"
    )
    add("--now", action="store_true", help="kill at once, without saving")
    add(WAIT_OPTION, type=float, default=WAIT_SECONDS, metavar="SECONDS",
        help="how long to wait until all have saved and ended (default: %(default)g)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Stop and wait; raises UserError where a run cannot be stopped, or does not end in time."""
    if not 0 <= args.wait <= 86_400:
        raise UserError(
            f"`{WAIT_OPTION}` must be 0 to 86400 seconds, but is {args.wait:g}. Set such a number."
        )
    rows, problem = standings(find_runs(args.runs))
    mistakes = [
        f"RUN must be in a known state to be stopped, but {row.save_dir} is not. {row.problem} {problem}"
        for row in rows
        if row.state == UNKNOWN
    ]
    live = [row for row in rows if row.state in LIVE]
    for row in rows:
        if row.state not in (*LIVE, UNKNOWN):
            tell(row, "was never submitted" if row.state == NEW else f"is not running: {row.state}")
    since = time.time()
    mistakes += send(live, args.now)
    for row in wait(live, args.wait, args.now, since):
        mistakes.append(
            f"RUN must end within {args.wait:g} s, but {row.save_dir} is still {row.state}. "
            "Wait for it (`metaseq launch status`), or kill it with --now."
        )
    if mistakes:
        raise UserError(*mistakes)


def tell(row: Standing, words: str) -> None:
    print(printable(f"{row.save_dir}: {words}"), flush=True)  # noqa: T201


def send(live: Sequence[Standing], is_now: bool) -> list[str]:
    """Tell all live runs to end; what went wrong, in sentences."""
    slurm: dict[str, list[str]] = {}
    for row in live:
        job = last_job(row.save_dir)
        assert job is not None, "a live run has a job"
        if job.executor == "slurm":
            kind = "kill" if is_now and row.state == RUNS else row.state
            slurm.setdefault(kind, []).append(job.id)
        elif job.process is not None:
            end_process(job.process, is_now)
    commands: list[list[str]] = []
    if (
        RUNS in slurm
    ):  # its steps, which are the agents; not marked as cancelled, it may take long to save
        commands.append(["scancel", "--signal=TERM", *slurm[RUNS]])
    if "kill" in slurm:
        commands.append(["scancel", "--signal=KILL", *slurm["kill"]])
    if cancelled := [*slurm.get(QUEUED, ()), *slurm.get("kill", ())]:
        commands.append(["scancel", *cancelled])
    mistakes = []
    for command in commands:
        try:
            run_command(command)
        except QueueError as error:
            mistakes.append(
                f"RUN must be stopped by scancel, but {error}. Look at its job in squeue."
            )
    return mistakes


def end_process(process: int, is_now: bool) -> None:
    """SIGTERM to submitit's controller, which hands it to the agent; ``is_now``: SIGKILL to both and all below."""
    import psutil

    try:
        controller = psutil.Process(process)
        if is_now:
            for child in [controller, *controller.children(recursive=True)]:
                child.kill()
        else:
            os.kill(process, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):  # it has just ended
        return
    except (psutil.AccessDenied, PermissionError) as error:
        raise UserError(
            f"RUN must be of this user, but process {process} is not. Ask its owner."
        ) from error


def wait(live: Sequence[Standing], seconds: float, is_now: bool, since: float) -> list[Standing]:
    """Wait for the runs' ends and tell of each; those that still live after so many seconds."""
    deadline = time.monotonic() + seconds
    before = {row.save_dir: row for row in live}
    while before:
        rows, _ = standings(list(before))
        for row in rows:
            if row.state not in (*LIVE, UNKNOWN):
                finish(before.pop(row.save_dir), row, is_now, since)
        if time.monotonic() >= deadline:
            break
        if before:
            has_slurm = any(last_executor(row) == "slurm" for row in before.values())
            time.sleep(POLL_SECONDS[has_slurm])
    return list(before.values())


def last_executor(row: Standing) -> str:
    job = last_job(row.save_dir)
    return job.executor if job else ""


def finish(before: Standing, row: Standing, is_now: bool, since: float) -> None:
    """Tell and record what became of a run that was told to end."""
    if row.state not in (STOPPED, "failed"):
        tell(row, f"has ended before it was stopped: {row.state}")
        return
    saved = saved_since(row.save_dir, since)
    fields: Mapping[str, object] = {
        "job": row.job,
        **({"update": row.update} if row.update is not None else {}),
        "saved": saved,
        "by": "metaseq launch stop --now" if is_now else "metaseq launch stop",
    }
    if not has_stopped(row.last_event):
        record(row.save_dir, STOPPED, **fields)
    at = "" if row.update is None else f" at update {row.update}"
    if before.state == QUEUED and saved is None:
        tell(row, f"job {row.job} is cancelled; it had not begun")
    elif saved is None:
        tell(row, f"is stopped{at}; nothing was saved since it was told to stop")
    else:
        tell(row, f"is stopped{at}; {saved} is saved")


def has_stopped(event: Optional[Event]) -> bool:
    return event is not None and event["kind"] == STOPPED


def saved_since(save_dir: Path, since: float) -> Optional[str]:
    """The checkpoint that was written last, if it was since a time in seconds since 1970."""
    times = {
        path.name: path.stat().st_mtime for path in save_dir.glob(CHECKPOINTS) if path.is_file()
    }
    newest = max(times, key=times.__getitem__, default=None)
    return newest if newest is not None and times[newest] >= since - 1 else None
