"""Keep a run alive: what the agents of a job do from its start to its end.

The agent of the first node decides, alone:
(1) a run that finished is over; so is one that was told to end;
(2) one that was told to come back, or that SLURM is about to end, is requeued once it has saved;
(3) one that failed is started again after a while: on one machine here, on a cluster by requeueing the job, without
    the node that is to blame; or given up (``policy``).
On SLURM a job is requeued only if it is still this start of it, and the requeue is looked at. Everything is recorded
in the events of the run, which a requeued job reads.
"""

import logging
import os
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Optional

from metaseq_plugin.compat.errors import EXIT_USER_ERROR
from metaseq_plugin.launch.jobs import slurm, team
from metaseq_plugin.launch.jobs.attempt import FAILED, FINISHED, TOLD, Attempt, End, Setting
from metaseq_plugin.launch.jobs.failures import Failure
from metaseq_plugin.launch.jobs.lock import wait_until_free
from metaseq_plugin.launch.jobs.notes import Notes
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.policy import decide, is_in_vain
from metaseq_plugin.launch.jobs.told import Told
from metaseq_plugin.launch.spec import Launch

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_STOPPED = 143  # as of SIGTERM
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Keeper:
    """The agent of one node.

    Attributes:
        can_be_requeued: whether submitit starts the job again when asked.
    """

    launch: Launch
    place: Place
    secret: bytes
    progress: Path
    told: Told
    can_be_requeued: bool

    def run(self) -> None:
        """Return when the run has finished.

        Raises:
            SystemExit: it goes on in another start of the job, was stopped or given up.
        """
        if self.place.is_first and self.place.requeues:
            wait_until_free(self.launch.spec.save_dir)
        # Until the end of this process: who loses the first node ends, too.
        with closing(self._meet()) as others:
            if self.place.is_first:
                self._lead(others)
            else:
                self._follow(others)

    def _meet(self) -> team.Team:
        """The other agents; where they cannot meet, the next start has another port."""
        try:
            return team.meet(self.place, self.place.requeues, self.secret)
        except OSError as error:
            reason = f"the agents of the nodes cannot meet: {error}"
            if self.place.is_first:
                self._restart(End(FAILED, failure=Failure(reason, node=self.place.host)))
            logger.error(reason)
            raise SystemExit(EXIT_FAILED) from error

    def _lead(self, others: team.Team) -> None:
        while True:
            start = self.place.requeues
            if not self.place.is_slurm:
                start = sum(event["kind"] == "started" for event in self.notes.events())
            self._record("started", start=start, hosts=list(self.place.hosts), process=os.getpid())
            end = Attempt(self._setting(others, start)).run()
            if end.kind == FINISHED:
                self._record("finished", update=end.update)
                others.say({"kind": team.BYE})
                return
            if end.kind == TOLD:
                self._leave(end)
            else:
                self._restart(end)

    @cached_property
    def notes(self) -> Notes:
        """What this start has to tell of the run."""
        return Notes(self.launch.spec.save_dir, self.place.job)

    def _record(self, kind: str, **fields: Any) -> None:
        self.notes.record(kind, **fields)

    def _setting(self, others: team.Team, start: int) -> Setting:
        return Setting(self.launch, self.place, start, self.progress, others, self.told, self.notes)

    def _follow(self, first: team.Team) -> None:
        """On another node: report how the ranks ended, and end as the first node says."""
        attempt = Attempt(self._setting(first, self.place.requeues))
        end = attempt.run()
        failures = [failure.as_json() for failure in attempt.own_failures()]
        first.say({"kind": team.ENDED, "failures": failures})
        heard: set[str] = set()
        # Some clusters end a job when one of its tasks fails: not before the first node's has done its part.
        while first.connections and team.BYE not in heard:
            heard |= {message["kind"] for _, message in first.heard()}
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if team.BYE not in heard or end.kind != FINISHED:
            raise SystemExit(EXIT_FAILED)

    def _leave(self, end: End) -> None:
        """The run was told to end; it goes on by itself if the signal meant that. Returns to start it again here."""
        fields = {"update": end.update, "signal": self.told.name, "saved": end.has_saved}
        if self.place.is_slurm:
            self._leave_slurm(fields, end.has_saved)
        if self.told.to_end:
            self._record("stopped", **fields)
            raise SystemExit(EXIT_STOPPED)
        self._record("saved_and_requeued" if end.has_saved else "preempted", **fields)
        if self.can_be_requeued:
            self.told.ask_submitit()
        self.told.received.clear()

    def _leave_slurm(self, fields: dict[str, Any], has_saved: bool) -> NoReturn:
        """What SLURM itself starts again is left to it; what somebody stops is not started again."""
        state = self._state()
        is_ours = slurm.is_ours(state, self.place.requeues)
        asks_to_end = self.told.to_end and state.state == slurm.RUNNING and not state.is_preempted
        if is_ours and not asks_to_end:
            ends_at_limit = not has_saved and not state.is_preempted
            if ends_at_limit and is_in_vain(fields["update"], self.notes.events()):
                self._give_up(
                    "two starts in a row came to no update within --time; set a longer one"
                )
            self._requeue({**fields, "kind": "saved_and_requeued" if has_saved else "preempted"})
        is_stopped = not slurm.has_come_back(state, self.place.requeues)
        self._record("stopped" if is_stopped else "preempted", state=state.state, **fields)
        raise SystemExit(EXIT_STOPPED)

    def _restart(self, end: End) -> None:
        """The run failed: returns to start it again here."""
        failure = end.failure
        assert failure is not None, "what failed has a reason"
        before = self.notes.events()
        self._record("hang" if end.is_hang else "failed", **failure.as_json())
        if self.place.is_slurm and not slurm.is_ours(self._state(), self.place.requeues):
            self._record("preempted", saved=False)  # SLURM ended it, and starts it again if it does
            raise SystemExit(EXIT_FAILED)
        # The next agent reads how often it was started again; where that is not written, SLURM's count tells.
        is_uncounted = self.place.is_slurm and self.notes.may_lack_some
        uncounted = self.place.requeues if is_uncounted else 0
        decision = decide(failure, before, self.launch.survival, uncounted)
        if decision.gives_up:
            self._give_up(decision.gives_up, failure)
        if self._wait(decision.seconds):
            return self._leave(End(TOLD, end.update))
        node = failure.node if failure.blames_node and self.place.is_slurm else ""
        self._record("restarting", attempt=decision.attempt, after=decision.seconds, excluded=node)
        if self.place.is_slurm:
            self._requeue(None, node)
        return None

    def _state(self) -> slurm.JobState:
        try:
            return slurm.patiently(lambda: slurm.job_state(self.place.number))
        except subprocess.SubprocessError as error:
            self._give_up(f"SLURM does not say how the job stands: {error}")

    def _wait(self, seconds: float) -> bool:
        """Whether a signal came meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.told:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return bool(self.told)

    def _requeue(self, saved: Optional[dict[str, Any]], node: str = "") -> NoReturn:
        """Have SLURM start the job again, see that it will, and end.

        Args:
            saved: what to record of a run that was told to end; None: it failed, which is recorded.
            node: one to leave out.
        """
        deadline = time.monotonic() + slurm.PATIENCE_SECONDS
        number, requeues = self.place.number, self.place.requeues
        while slurm.is_ours(state := self._state(), requeues):
            reason = f"SLURM took the request, but shows it {state.state}"
            try:
                with suppress(SystemExit):
                    self.told.ask_submitit()
            except (subprocess.SubprocessError, OSError) as error:
                reason = str(error)
            if time.monotonic() > deadline:
                self._give_up(f"the job could not be requeued: {reason}")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if not slurm.has_come_back(state, requeues):  # ended by somebody, in between
            self._record("stopped", state=state.state)
            raise SystemExit(EXIT_STOPPED)
        if saved is not None:
            self._record(**saved)
        if node:
            refused = slurm.exclude(number, node)
            self._record("excluded", node=node, refused=refused)
        raise SystemExit(EXIT_FAILED)

    def _give_up(self, reason: str, failure: Optional[Failure] = None) -> NoReturn:
        self._record("gave_up", reason=reason)
        logger.error(f"The run is given up: {reason}.")
        is_users = failure is not None and failure.is_users
        raise SystemExit(EXIT_USER_ERROR if is_users else EXIT_FAILED)
