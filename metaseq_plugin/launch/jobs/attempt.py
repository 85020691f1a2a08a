"""One start of a run on one node: its ranks are watched until they end, whatever ends them.

(1) The ranks are started; the first node's agent records it.
(2) A signal to the agent goes on to the ranks, which save at their next update and end.
(3) A rank that fails ends the others: they have ``GRACE_SECONDS`` to find out and say so, then they are killed. The
    first node's agent ends them on all nodes, and an agent that loses it ends its own.
(4) A run that hangs prints the stacks of all its ranks, into their logs, and is killed.
(5) What rank 0 prints also goes to the agent's own output.
"""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

from metaseq_plugin.launch.jobs import progress, slurm, team
from metaseq_plugin.launch.jobs.failures import Failure, first_of, last_words, memory_kills, why
from metaseq_plugin.launch.jobs.notes import Notes
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.ranks import Ranks
from metaseq_plugin.launch.jobs.told import Told
from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.ledger.surroundings import node_fields

SECONDS_BETWEEN_LOOKS = 0.1
GRACE_SECONDS = 15.0  # last words take 5
STACKS_SECONDS = 3.0  # to print them
ANSWER_SECONDS = 45.0  # of another node whose ranks are to die
OWNERSHIP_SECONDS = 60.0  # between two questions to SLURM whether the job is still ours
SAVING_SHARE = 0.8  # of signal_seconds; the rest is for the requeue
STOPPED = tuple(128 + number for number in (signal.SIGTERM, signal.SIGINT))  # with all saved
FINISHED, TOLD, FAILED = "finished", "told", "failed"


@dataclass(frozen=True)
class End:
    """How a start ended: ``FINISHED``, ``TOLD`` by a signal, or ``FAILED``.

    Attributes:
        has_saved: whether the ranks said so.
        is_hang: whether the failure is one.
    """

    kind: str
    update: int = 0
    failure: Optional[Failure] = None
    has_saved: bool = False
    is_hang: bool = False


@dataclass(frozen=True)
class Setting:
    """What a start is given by its agent."""

    launch: Launch
    place: Place
    start: int
    progress: Path
    team: team.Team
    told: Told
    notes: Notes


class Attempt:
    """One start; the main thread makes it and runs it once."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.place = setting, setting.place
        survival = setting.launch.survival
        progress.clear(setting.progress)
        self.kills_before, self.begin = memory_kills(), time.monotonic()
        self.ranks = Ranks(setting.launch, self.place, setting.start, setting.progress)
        self.watch = progress.HangWatch(survival.hang_factor, survival.hang_seconds, self.begin)
        self.reports: dict[int, team.Message] = {}  # of other nodes
        self.deadline: Optional[float] = None  # when the ranks are killed
        self.hang: Optional[Failure] = None
        self.ended: dict[
            int, int
        ] = {}  # rank -> status, of those that ended by themselves, in order
        self.has_resumed = self.was_passed_on = self.was_killed = False
        self.is_lost = False  # the first node is gone
        self._asked_slurm = self.begin
        fields = {**node_fields(), "node": self.place.host}
        setting.notes.record(
            "rank", rank=self.ranks.first, ranks=setting.launch.resources.ranks_per_node, **fields
        )

    def run(self) -> End:
        """Until all ranks, on the first node of all nodes, have ended."""
        with self.ranks.logs[0].open("rb") as log:
            log.seek(self.ranks.begins[0])
            try:
                while not self._is_over():
                    self._look()
                    self._echo(log)
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                self._look_at_statuses()
            finally:
                self._kill()
                self._echo(log)
        return self._end()

    def _look(self) -> None:
        self._listen()
        self._pass_signals_on()
        self._look_at_statuses()
        self._look_at_progress()
        self._look_at_slurm()
        self._keep_deadline()

    @property
    def at(self) -> progress.Progress:
        return progress.read(self.setting.progress)

    def _is_over(self) -> bool:
        others = len(self.place.hosts) - 1 if self.place.is_first else 0
        return self.ranks.have_ended and len(self.reports) >= others

    def _listen(self) -> None:
        for node, message in self.setting.team.heard():
            kind = message["kind"]
            if self.place.is_first:
                self.reports.setdefault(node, message)
            elif kind == team.STACKS:
                self.ranks.signal(signal.SIGQUIT)
            else:  # to be killed, or the first node is gone
                self.is_lost = kind != team.KILL
                self._kill()

    def _pass_signals_on(self) -> None:
        if self.setting.told and not self.was_passed_on:
            self.was_passed_on = True
            self.ranks.signal(signal.SIGTERM)
            self._end_within(SAVING_SHARE * self.setting.launch.survival.signal_seconds)

    def _look_at_statuses(self) -> None:
        if self.was_killed:
            return
        for rank, status in zip(self.ranks.numbers, self.ranks.statuses()):
            if status is not None:
                self.ended.setdefault(rank, status)
        others = [message for message in self.reports.values() if not is_well(message)]
        if (any(self.ended.values()) or others) and not self._is_over():
            self._end_within(GRACE_SECONDS)

    def _kill(self) -> None:
        if not self.ranks.have_ended:
            self._look_at_statuses()
            self.was_killed = True
        self.ranks.kill()

    def _look_at_progress(self) -> None:
        at = self.at
        if not self.place.is_first or self.deadline is not None:
            return
        if at.begun is not None and not self.has_resumed:
            self.has_resumed = True
            if at.begun:
                self.setting.notes.record("resumed", update=at.begun)
        silent = self.watch.look(at)
        if silent is not None and not self.ranks.have_ended:
            self.hang = Failure(f"no update for {silent:.0f} seconds", update=at.update)
            self.deadline = time.monotonic()

    def _look_at_slurm(self) -> None:
        """A job that SLURM has ended or started elsewhere, while it could not reach this node, is not ours."""
        now = time.monotonic()
        due = now - self._asked_slurm > OWNERSHIP_SECONDS
        if not self.place.is_first or not self.place.is_slurm or not due or self.setting.told:
            return
        self._asked_slurm = now
        with suppress(subprocess.SubprocessError):  # asked again in a minute
            if not slurm.is_ours(slurm.job_state(self.place.number), self.place.requeues):
                self.setting.told.received.append(signal.SIGTERM)

    def _end_within(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.deadline = end if self.deadline is None else min(self.deadline, end)

    def _keep_deadline(self) -> None:
        """Kill what still runs when its time is over; who should have saved, or hangs, shows where it is."""
        now = time.monotonic()
        if self.deadline is None or now < self.deadline:
            return
        if self.hang is not None or self.was_passed_on:
            self._say(team.STACKS)
            self.ranks.signal(signal.SIGQUIT)
            time.sleep(STACKS_SECONDS)
        self._say(team.KILL)
        self._kill()
        self._wait_for_reports()
        self.deadline = None

    def _say(self, kind: str) -> None:
        """To the other nodes, where this one decides."""
        if self.place.is_first:
            self.setting.team.say({"kind": kind})

    def _wait_for_reports(self) -> None:
        """Of other nodes, whose ranks are to die; who does not answer is gone."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self._is_over() and time.monotonic() < deadline:
            self._listen()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if self.place.is_first:
            for node in range(1, len(self.place.hosts)):
                self.reports.setdefault(node, team.GONE)

    def _echo(self, log: BinaryIO) -> None:
        """Print what the first rank has printed since."""
        text = log.read()
        if text and self.place.is_first:
            encoding = sys.stdout.encoding or "utf-8"  # which may not have all that a rank prints
            words = text.decode("utf-8", "replace").encode(encoding, "replace").decode(encoding)
            with suppress(OSError):  # where the disk is full; the rank's own log may have it
                sys.stdout.write(words)
                sys.stdout.flush()

    def own_failures(self) -> list[Failure]:
        """Of the ranks of this node, the first to end first; not of those that were killed for it."""
        kills = memory_kills() - self.kills_before
        found = []
        for rank, status in self.ended.items():
            if status:
                place = rank - self.ranks.first
                words = last_words(self.ranks.logs[place], self.ranks.begins[place])
                found.append(why(rank, status, words, self.place.host, self.at.update, kills))
        return found

    def _failures(self) -> list[Failure]:
        found = self.own_failures()
        for node, message in self.reports.items():
            if message["kind"] == team.GONE["kind"]:
                name = self.place.hosts[node]
                reason = f"the agent of {name} is gone"
                found.append(Failure(reason, None, None, name, self.at.update, True))
            else:
                found += [Failure(**failure) for failure in message["failures"]]
        return found

    def _end(self) -> End:
        update, failures = self.at.update, self._failures()
        if self.hang is not None:
            return End(FAILED, update, self.hang, is_hang=True)
        if self.is_lost:
            return End(FAILED, update, Failure("the first node is gone", update=update))
        if not failures and not self.was_killed:
            return End(FINISHED, update)
        if self.setting.told:
            has_saved = not self.was_killed and all(one.status in STOPPED for one in failures)
            return End(TOLD, update, has_saved=has_saved)
        return End(FAILED, update, first_of(failures))


def is_well(message: team.Message) -> bool:
    """Whether a node reports that its ranks have finished."""
    return message["kind"] == team.ENDED and not message["failures"]
