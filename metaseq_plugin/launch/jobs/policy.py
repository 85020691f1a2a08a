"""Whether a run that failed is started again, after how long, and on which nodes: asked of one agent of the job.

A mistake of the user's is not tried again; nor is what failed at the same update for the same reason before; nor more
than ``max_restarts`` times. The wait doubles with each restart in a row that made no update.
"""

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from metaseq_plugin.launch.jobs.failures import Failure
from metaseq_plugin.launch.spec import Survival

FAILURES = ("failed", "hang")
REQUEUED = ("saved_and_requeued", "preempted")


@dataclass(frozen=True)
class Decision:
    """What becomes of a run that failed.

    Attributes:
        gives_up: why it is not started again; "" where it is.
        seconds: to wait before.
        attempt: which restart it is, from 1 on.
    """

    gives_up: str = ""
    seconds: float = 0.0
    attempt: int = 0


def decide(failure: Failure, before: Sequence[Mapping[str, Any]], survival: Survival) -> Decision:
    """What to do about ``failure``.

    Args:
        before: the events of this job up to now, without that of ``failure``.
    """
    if failure.is_users:
        return Decision("what was asked for must be put right first")
    failures = [event for event in before if event["kind"] in FAILURES]
    if any(failure.is_like(event) for event in failures):
        return Decision(
            f"it failed at update {failure.update} for the same reason before: {failure.reason}"
        )
    restarts = sum(event["kind"] == "restarting" for event in before)
    if restarts >= survival.max_restarts:
        return Decision(
            f"it was started again {restarts} times, which is all that --max-restarts allows"
        )
    in_vain = 0
    for event in reversed(failures):
        if event.get("update") != failure.update:
            break
        in_vain += 1
    return Decision("", survival.backoff * 2**in_vain, restarts + 1)


def is_in_vain(update: int, before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a start that the time limit ends at ``update``, with nothing saved, came no further than the last one.

    Args:
        before: the events of this job up to now.
    """
    ends = [event for event in before if event["kind"] in (*REQUEUED, *FAILURES)]
    return bool(ends) and ends[-1]["kind"] == "preempted" and ends[-1].get("update") == update
