"""Whether a run that failed is started again, after how long, and on which nodes: asked of one agent of the job.

A mistake of the user's is not tried again; nor is what failed at the same update for the same reason before; nor more
than ``max_restarts`` times in a row from the same save: a start that resumed from a later one has made the restarts
before it worth while, and they count no more. The wait doubles with each restart in a row that made no update, up to
``LONGEST_WAIT``.
"""

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from metaseq_plugin.launch.jobs.failures import Failure
from metaseq_plugin.launch.spec import Survival

FAILURES = ("failed", "hang")
LONGEST_WAIT = 600.0  # seconds; a longer --backoff is waited as it is
DOUBLINGS = 30  # more are longer than anything
REQUEUED = ("saved_and_requeued", "preempted")


@dataclass(frozen=True)
class Decision:
    """What becomes of a run that failed.

    Attributes:
        gives_up: why it is not started again; "" where it is.
        seconds: to wait before.
        attempt: which restart it is since the run got on, from 1 on.
    """

    gives_up: str = ""
    seconds: float = 0.0
    attempt: int = 0


def decide(
    failure: Failure, before: Sequence[Mapping[str, Any]], survival: Survival, uncounted: int = 0
) -> Decision:
    """What to do about ``failure``.

    Args:
        before: the events of this job up to now, without that of ``failure``.
        uncounted: restarts that these may lack, because they could not be written.
    """
    if failure.is_users:
        return Decision("what was asked for must be put right first")
    failures = [event for event in before if event["kind"] in FAILURES]
    if any(failure.is_like(event) for event in failures):
        return Decision(
            f"it failed at update {failure.update} for the same reason before: {failure.reason}"
        )
    restarts = max(restarts_in_a_row(before), uncounted)
    if restarts >= survival.max_restarts:
        return Decision(
            f"it was started again {restarts} times in a row without getting on, which is all that --max-restarts "
            "allows"
        )
    in_vain = 0
    for event in reversed(failures):
        if event.get("update") != failure.update:
            break
        in_vain += 1
    wait = survival.backoff * 2.0 ** min(in_vain, DOUBLINGS)
    return Decision("", min(wait, max(survival.backoff, LONGEST_WAIT)), restarts + 1)


def restarts_in_a_row(events: Sequence[Mapping[str, Any]]) -> int:
    """Since a start last resumed from a later update than any before it."""
    furthest, restarts = 0, 0
    for event in events:
        restarts += event["kind"] == "restarting"
        update = event.get("update") if event["kind"] == "resumed" else None
        if isinstance(update, int) and update > furthest:
            furthest, restarts = update, 0
    return restarts


def is_in_vain(update: int, before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a start that the time limit ends at ``update``, with nothing saved, came no further than the last one.

    Args:
        before: the events of this job up to now.
    """
    ends = [event for event in before if event["kind"] in (*REQUEUED, *FAILURES)]
    return bool(ends) and ends[-1]["kind"] == "preempted" and ends[-1].get("update") == update
