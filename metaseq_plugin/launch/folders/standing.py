"""How runs stand: their state, how far they are, how often they were started, and what happened last.

    rows, problem = standings([Path("runs/a"), Path("runs/b")])

The steps:
(1) of each folder, events, the last job and the end of rank 0's log are read; one that cannot be is said to be so;
(2) SLURM is asked once about the jobs of all runs that have not ended by their own word;
(3) each run's state follows:
    finished, gave_up, stopped    by the last event, where nothing begins after it
    queued, running               its job waits or runs
    failed                        its job is over without such an event; "stopped" if it was cancelled
    new                           it was never submitted
    unknown                       SLURM or another host cannot be asked
"""

import math
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import Event, read_events
from metaseq_plugin.launch.folders.jobs_file import Job, created_at, last_job
from metaseq_plugin.launch.folders.progress import FIRST_LOG, LOGS, Progress, read_progress
from metaseq_plugin.launch.folders.queue import RUNNING, WAITING, Answer, ask
from metaseq_plugin.launch.folders.reading import is_run, read_launch
from metaseq_plugin.launch.spec import LAUNCH, Launch

NEW, QUEUED, RUNS, FINISHED, FAILED, STOPPED, GAVE_UP, UNKNOWN = (
    "new", "queued", "running", "finished", "failed", "stopped", "gave_up", "unknown",
)  # fmt: skip
ENDINGS = (FINISHED, STOPPED, GAVE_UP)  # events after which an agent starts nothing
BEGINNINGS = ("submitted", "started", "resumed", "restarting", "saved_and_requeued", "preempted")
REQUEUES = ("saved_and_requeued", "preempted")
PLACES = ("rank",)  # events that say where ranks are, not what happened
SAME_SECONDS = 1.0  # of a process's beginning, asked twice
CANCELLED = ("CANCELLED", "REVOKED")


@dataclass(frozen=True)
class Found:
    """What was read of one run folder; ``problem``: what could not be."""

    save_dir: Path
    launch: Optional[Launch] = None
    events: Sequence[Event] = ()
    job: Optional[Job] = None
    progress: Optional[Progress] = None
    problem: str = ""


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        max_update: None where its options set none.
        loss: bits a token.
        eta_seconds: until max_update, at the recent speed; of a run that is running.
        restarts: after crashes and hangs; requeues: after being preempted, or out of time.
        last_event: as it was recorded; None where there is none.
        problem: a sentence: why it failed, or what cannot be known.
    """

    run: str
    save_dir: Path
    state: str
    job: Optional[str] = None
    update: Optional[int] = None
    max_update: Optional[int] = None
    loss: Optional[float] = None
    tokens_per_second: Optional[float] = None
    eta_seconds: Optional[float] = None
    restarts: int = 0
    requeues: int = 0
    last_event: Optional[Event] = field(default=None)
    problem: str = ""


def standings(save_dirs: Sequence[Path]) -> tuple[list[Standing], str]:
    """How all of these runs stand, in their order, and a sentence where SLURM could not be asked."""
    found = [read(save_dir) for save_dir in save_dirs]
    answer = ask(job.id for job in map(asked_about, found) if job is not None)
    problem = f"SLURM could not say all: {answer.problem}." if answer.problem else ""
    names = labels(save_dirs)
    return [standing(run, answer, name) for run, name in zip(found, names, strict=True)], problem


def labels(save_dirs: Sequence[Path]) -> list[str]:
    """What tables call the runs: the folders' own names, or as much of their paths as tells them apart."""
    names = [save_dir.absolute().name for save_dir in save_dirs]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([save_dir.absolute() for save_dir in save_dirs])
    return [str(save_dir.absolute().relative_to(common)) for save_dir in save_dirs]


def read(save_dir: Path) -> Found:
    """What a run folder holds; one that is broken says so in ``problem``."""
    problems: list[str] = []
    launch = None
    try:
        launch = read_launch(save_dir) if is_run(save_dir) else None
    except UserError as error:
        problems.append(str(error))
    try:
        events, foreign = read_events(save_dir)
        job = last_job(save_dir)
        progress = read_progress(save_dir / LAUNCH / LOGS / FIRST_LOG)
    except OSError as error:
        problems.append(f"{error.filename} must be readable, but is not ({error.strerror}).")
        return Found(save_dir, launch, problem=" ".join(problems))
    if foreign:
        problems.append(f"{foreign} lines of its events are torn, or no events.")
    return Found(save_dir, launch, events, job, progress, " ".join(problems))


def asked_about(run: Found) -> Optional[Job]:
    """The job that SLURM is asked about: of a run that has not ended by its own word."""
    is_over = ending(run.events) is not None
    return run.job if run.job is not None and run.job.executor == "slurm" and not is_over else None


def ending(events: Sequence[Event]) -> Optional[Event]:
    """The event that ended a run, if nothing has begun after it."""
    for event in reversed(events):
        if event["kind"] in ENDINGS:
            return event
        if event["kind"] in BEGINNINGS:
            return None
    return None


def standing(run: Found, answer: Answer, name: str) -> Standing:
    """How a run stands, by what was read of it and what SLURM said."""
    state, why = state_and_reason(run, answer)
    progress, most = run.progress, max_update(run.launch)
    told = [event for event in run.events if event["kind"] not in PLACES]
    last_event = told[-1] if told else None
    update = progress.update if progress else last_field(run.events, "update")
    if state != RUNS and last_event is not None and type(last_event.get("update")) is int:
        update = last_event["update"]  # the log ends up to --log-interval before
    speed = progress.updates_per_second if progress and state == RUNS else None
    left = max(0, most - update) if most is not None and update is not None else None
    return Standing(
        run=name,
        save_dir=run.save_dir,
        state=state,
        job=run.job.id if run.job else None,
        update=update,
        max_update=most,
        loss=progress.loss if progress else None,
        tokens_per_second=progress.tokens_per_second if progress and state == RUNS else None,
        eta_seconds=left / speed if speed and left is not None else None,
        restarts=count(run.events, ("restarting",)),
        requeues=count(run.events, REQUEUES),
        last_event=last_event,
        problem=" ".join(sentence for sentence in (why, run.problem) if sentence),
    )


def state_and_reason(run: Found, answer: Answer) -> tuple[str, str]:
    """The state, and a sentence where a person should look."""
    end = ending(run.events)
    if end is not None:
        return end["kind"], given_up(run, end) if end["kind"] == GAVE_UP else ""
    if run.job is None:
        if run.problem and not run.events:
            return UNKNOWN, ""
        if not any(event["kind"] in BEGINNINGS for event in run.events):
            return NEW, ""
        return UNKNOWN, "Its events name no job that is in jobs.jsonl."
    if run.job.executor == "slurm":
        return slurm_state(run, run.job, answer)
    return local_state(run, run.job)


def slurm_state(run: Found, job: Job, answer: Answer) -> tuple[str, str]:
    said = answer.states.get(job.id)
    if said in WAITING:
        return QUEUED, ""
    if said in RUNNING:
        return RUNS, ""
    if not answer.is_known:
        return UNKNOWN, ""  # one sentence for all runs says why
    if said in CANCELLED:
        return STOPPED, f"Its job {job.id} was cancelled."
    if said is None:
        return FAILED, f"Its job {job.id} is over, and SLURM has forgotten how. {failure(run)}"
    return FAILED, f"Its job {job.id} ended as {said}. {failure(run)}"


def local_state(run: Found, job: Job) -> tuple[str, str]:
    if job.host != socket.gethostname():
        return UNKNOWN, f"It is a process of {job.host}: ask there."
    created = created_at(job.process)
    if created is None or job.created is None or abs(created - job.created) > SAME_SECONDS:
        return FAILED, f"Its process {job.process} is gone. {failure(run)}"
    begun = [event["kind"] for event in run.events if event["kind"] in BEGINNINGS]
    is_queued = begun[-1:] in ([], ["submitted"])
    return (QUEUED if is_queued else RUNS), ""


def failure(run: Found) -> str:
    """What the last failure since the last beginning said of itself."""
    event = last_failure(run.events)
    return reason(event) if event else "It left no word; see `metaseq launch logs --errors`."


def given_up(run: Found, end: Event) -> str:
    """Why it was given up, and the failure that it was given up for."""
    event = last_failure(run.events)
    return f"{reason(event)} Given up: {reason(end)}" if event else reason(end)


def last_failure(events: Sequence[Event]) -> Optional[Event]:
    """The last failure since the last beginning."""
    for event in reversed(events):
        if event["kind"] in ("failed", "hang"):
            return event
        if event["kind"] in BEGINNINGS:
            return None
    return None


def reason(event: Event) -> str:
    """An event of failure as a sentence: who, where, when and why."""
    parts = [f"{name} {event[name]}" for name in ("rank", "node", "update") if name in event]
    said = str(event.get("reason") or event["kind"]).strip().rstrip(".")
    return f"{said} ({', '.join(parts)})." if parts else f"{said}."


def max_update(launch: Optional[Launch]) -> Optional[int]:
    value = launch.spec.options.get("max-update") if launch else None
    try:
        number = int(float(value)) if value is not None else 0
    except (ValueError, OverflowError):
        return None
    return number if number > 0 else None


def last_field(events: Sequence[Event], name: str) -> Optional[int]:
    """The last whole number of that name in the events."""
    values: list[Any] = [event.get(name) for event in events]
    return next((value for value in reversed(values) if type(value) is int), None)


def count(events: Iterable[Event], kinds: Sequence[str]) -> int:
    return sum(event["kind"] in kinds for event in events)


def plain(value: Standing) -> dict[str, Any]:
    """A standing as JSON has it; a loss that is no number as its text."""
    row = dict(vars(value), save_dir=str(value.save_dir))
    numbers = [name for name, number in row.items() if isinstance(number, float)]
    return {
        **row,
        **{name: str(row[name]) for name in numbers if not math.isfinite(row[name])},
    }
