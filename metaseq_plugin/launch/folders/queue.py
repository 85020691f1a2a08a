"""Whether jobs wait, run or have ended: one ``squeue`` for all of them, one ``sacct`` for those it does not know.

    answer = ask({"17", "18_2"})
    answer.states           # {"17": "RUNNING", "18_2": "COMPLETED"}
    answer.problem          # what could not be asked, and why; nothing where all was

squeue forgets a job minutes after its end; sacct needs slurmdbd. A job that neither knows has ended. Where squeue
itself fails, nothing is known of any job, and nobody may think that it has ended.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import Iterable, Mapping

SECONDS = 30.0
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
                     "SPECIAL_EXIT"})  # fmt: skip
RUNNING = frozenset(
    {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING"}
)
# squeue's answer where all of its --jobs are forgotten
NO_JOB = "Invalid job id"


@dataclass(frozen=True)
class Answer:
    """What SLURM said: job -> its state in SLURM's words; ``is_known``: squeue answered."""

    states: Mapping[str, str] = field(default_factory=dict)
    is_known: bool = True
    problem: str = ""


class QueueError(Exception):
    """A command of SLURM cannot be run, or fails; the message names it and says why."""


def ask(jobs: Iterable[str]) -> Answer:
    """The states of ``jobs``, numbers as SLURM writes them ("17", "18_2")."""
    wanted = sorted(set(jobs))
    if not wanted:
        return Answer()
    try:
        states = squeue(wanted)
    except QueueError as error:
        return Answer({}, False, str(error))
    gone = [job for job in wanted if job not in states]
    if not gone:
        return Answer(states)
    try:
        return Answer({**sacct(gone), **states})
    except QueueError as error:
        return Answer(states, True, str(error))


def squeue(jobs: list[str]) -> dict[str, str]:
    """State of those jobs that wait, run, or have just ended.

    Raises:
        QueueError: squeue is missing or fails.
    """
    numbers = ",".join(sorted({job.split("_")[0] for job in jobs}))
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T",
        f"--jobs={numbers}",
    ]
    try:
        printed = run(command)
    except QueueError as error:
        if NO_JOB in str(error):
            return {}
        raise
    return states_in(printed)


def sacct(jobs: list[str]) -> dict[str, str]:
    """State of those jobs that SLURM's accounting knows.

    Raises:
        QueueError: sacct is missing or fails.
    """
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State",
               f"--jobs={','.join(jobs)}"]  # fmt: skip
    return states_in(run(command))


def states_in(printed: str) -> dict[str, str]:
    """``17|CANCELLED by 0`` as {"17": "CANCELLED"}, line by line."""
    rows = [line.strip().split("|") for line in printed.splitlines()]
    return {
        row[0]: row[1].split()[0].rstrip("+") for row in rows if len(row) == 2 and row[1].strip()
    }


def run(command: list[str]) -> str:
    """What a command of SLURM prints.

    Raises:
        QueueError: it is missing or fails.
    """
    if shutil.which(command[0]) is None:
        raise QueueError(f"{command[0]} must be on PATH, but is not")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise QueueError(f"{command[0]} did not answer for {SECONDS:g} s") from error
    except OSError as error:
        raise QueueError(f"{command[0]} cannot be run ({error.strerror})") from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = re.sub(rf"^{command[0]}: (error: )?", "", said[-1]) if said else "no word"
        raise QueueError(f"{command[0]} failed with status {done.returncode} ({last})")
    return done.stdout
