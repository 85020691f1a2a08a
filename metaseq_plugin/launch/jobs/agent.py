"""What submitit runs, once on each node of a job: it starts the node's ranks and keeps the run alive.

    job = executor.submit(Agent(launch, secret))

It is pickled with the job. submitit's handler asks it for ``checkpoint()`` when the job is to be requeued.
"""

import inspect
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from metaseq_plugin.launch.jobs import turn
from metaseq_plugin.launch.jobs.keep import Keeper
from metaseq_plugin.launch.jobs.notes import Notes
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.progress import progress_file
from metaseq_plugin.launch.jobs.told import Told, ending_at_once
from metaseq_plugin.launch.spec import Launch

LOCAL = "local"
EXIT_NOT_STARTED = 1


def starts_of_a_local_job() -> int:
    """How often submitit's local controller starts a job; then it drops it."""
    from submitit.local.local import Controller

    return int(inspect.signature(Controller.run).parameters["max_retry"].default)


@dataclass(frozen=True)
class Agent:
    """One run, in a job of its own.

    Attributes:
        secret: lets the agents of the job know each other.
        queue: what a job of the local executor waits for.
        starts: how often submitit has started the job before.
    """

    launch: Launch
    secret: bytes = field(repr=False)
    queue: Optional[turn.Queue] = None
    starts: int = 0

    def __call__(self) -> None:
        """Run it.

        Raises:
            SystemExit: it goes on in another start of the job, was stopped or given up.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s | %(name)s | %(message)s")
        place = Place.here()
        if self.queue is None:
            self._keep(place)
        else:
            self._keep_in_turn(place, self.queue)

    def _keep_in_turn(self, place: Place, queue: turn.Queue) -> None:
        turn.note(place.job, "waits")
        with ending_at_once():
            failed = queue.failed()
        if failed is not None:
            reason = f"job {failed}, which had to finish before, has not"
            Notes(self.launch.spec.save_dir, place.job).record("gave_up", reason=reason)
            raise SystemExit(EXIT_NOT_STARTED)
        with ExitStack() as stack:
            with ending_at_once():
                stack.enter_context(queue.turn())
            self._keep(place)
        turn.note(place.job, turn.DONE)

    def _keep(self, place: Place) -> None:
        can_be_requeued = place.is_slurm or (
            place.executor == LOCAL and self.starts + 1 < starts_of_a_local_job()
        )
        with Told() as told, progress_file() as progress:
            Keeper(self.launch, place, self.secret, progress, told, can_be_requeued).run()

    def checkpoint(self) -> Any:
        """For submitit: what the next start of the job runs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self, starts=self.starts + 1))
