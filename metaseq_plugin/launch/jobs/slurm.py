"""What an agent asks of SLURM: how its job stands, to start it again, and which nodes to leave out.

Every answer is looked at: a request that SLURM took says so in the job's state. ``scontrol`` fails while slurmctld
is restarted; it is asked again for minutes.
"""

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Callable

SECONDS_TO_ANSWER = 30.0
PATIENCE_SECONDS = 600.0  # with a slurmctld that does not answer
SECONDS_BETWEEN_TRIES = 5.0
NO_TIME = ("None", "N/A", "Unknown", "")
RUNNING, TIME_LIMIT = "RUNNING", "TimeLimit"


@dataclass(frozen=True)
class JobState:
    """How SLURM has a job.

    Attributes:
        reason: why it is in it, as "TimeLimit".
        requeues: how often it was started again.
        is_preempted: whether SLURM is taking its nodes, and gives it time to end (GraceTime).
        nodes: how many it needs.
        excluded: those that it leaves out, as SLURM writes lists of nodes; "": none.
    """

    state: str
    requeues: int
    reason: str = ""
    is_preempted: bool = False
    partition: str = ""
    nodes: int = 1
    excluded: str = ""


def parse(shown: str) -> JobState:
    """The first job of ``scontrol show job -o``.

    Asked for the job of an array that has the array's own number, scontrol shows that job, then all others.

    Raises:
        subprocess.SubprocessError: it shows no job.
    """
    fields = dict(word.split("=", 1) for word in shown.partition("\n")[0].split() if "=" in word)
    if "JobState" not in fields:
        raise subprocess.SubprocessError("scontrol shows no job")
    excluded = fields.get("ExcNodeList", "(null)")
    return JobState(
        fields["JobState"].split(",")[0],
        int(fields.get("Restarts", 0)),
        fields.get("Reason", ""),
        fields.get("PreemptTime", "None") not in NO_TIME,
        fields.get("Partition", ""),
        int(fields.get("NumNodes", "1").split("-")[0]),
        "" if excluded == "(null)" else excluded,
    )


def scontrol(*words: str) -> str:
    """What ``scontrol`` prints.

    Raises:
        subprocess.SubprocessError: it fails or does not answer.
    """
    return answer("scontrol", *words)


def answer(*command: str) -> str:
    """What a command of SLURM's prints, also while SLURM ends every process of the job.

    Raises:
        subprocess.SubprocessError: it cannot be run, fails or does not answer.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True, preexec_fn=ignore_sigterm
        )  # fmt: skip
    except OSError as error:  # not there, or no memory for one more process
        raise subprocess.SubprocessError(f"{command[0]} cannot be run: {error.strerror}") from error
    return done.stdout


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def job_state(number: int) -> JobState:
    """How the job stands.

    Raises:
        subprocess.SubprocessError: SLURM does not say.
    """
    return parse(scontrol("show", "job", "-o", str(number)))


def patiently(ask: Callable[[], JobState], patience: float = PATIENCE_SECONDS) -> JobState:
    """``ask()``, again and again while it fails.

    Raises:
        subprocess.SubprocessError: it still fails after ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except subprocess.SubprocessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(SECONDS_BETWEEN_TRIES)


def is_ours(job: JobState, requeues: int) -> bool:
    """Whether the job still is the start that an agent belongs to, and to be requeued by it.

    SLURM only ends a job at its time limit; one that was cancelled shows as COMPLETING too, but for another reason.
    """
    return job.requeues == requeues and (job.state == RUNNING or job.reason == TIME_LIMIT)


def has_come_back(job: JobState, requeues: int) -> bool:
    """Whether the job was requeued since; it may still be COMPLETING what it was."""
    return job.requeues > requeues


def usable_nodes(partition: str) -> set[str]:
    """The nodes of a partition that are neither down nor drained.

    Raises:
        subprocess.SubprocessError: SLURM does not say.
    """
    return set(answer("sinfo", "-h", "-N", "-r", "-o", "%N", "-p", partition).split())


def exclude(number: int, host: str) -> str:
    """Have the job, which waits, leave ``host`` out besides what it leaves out already.

    Returns:
        why it does not: too few nodes would be left, or SLURM refuses; "" where it does.
    """
    try:
        job = patiently(lambda: job_state(number))
        excluded = (
            set(scontrol("show", "hostnames", job.excluded).split()) if job.excluded else set()
        )
        excluded.add(host)
        left = len(usable_nodes(job.partition) - excluded)
        if left < job.nodes:
            return (
                f"only {left} nodes of {job.partition} would be left, and the job needs {job.nodes}"
            )
        scontrol("update", f"JobId={number}", f"ExcNodeList={','.join(sorted(excluded))}")
    except subprocess.SubprocessError as error:
        return str(error)
    return ""
