"""Rank 0 writes the ledger of the run that it trains: events as they happen, numbers every few updates.

    with recording(cfg, all_ranks()) as recorder:     # of rank 0; None in the others, and without a ledger
        …
    current_recorder().event("spike", of="loss", value=12.0, z=9.1, policy="log", action="logged")

(1) ``recording``, alone in the run's folder: refuses a ledger that cannot be written or is of a later version;
    writes ``start``, with what the tally says of a start before it that was killed;
(2) ``Recorder.ready``, when all is loaded: ``ready``, and ``resume`` with what changed since the start before;
(3) compat/recorded_run.py tells the recorder each update, validation and save;
(4) ``recording`` ends with ``end`` and its reason, however the run ends but by kill -9: then the tally says it.
"""

import math
import os
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from metaseq_plugin.checkpoint.manifest import MANIFEST_SUFFIX, Manifest
from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.compat.finished_runs import NothingToDo
from metaseq_plugin.compat.last_words import lost_rank
from metaseq_plugin.compat.recorded_run import Sums, observer
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.ledger.clock import Clock
from metaseq_plugin.ledger.files import (
    EVENTS,
    FORMAT,
    TALLY,
    UPDATES,
    Ledger,
    forget,
    ledger_folder,
    read_ledger,
)
from metaseq_plugin.ledger.journal import Journal
from metaseq_plugin.ledger.options import check_options, option
from metaseq_plugin.ledger.start import (
    began,
    changes,
    model_facts,
    of_the_schedule,
    process_began,
)
from metaseq_plugin.ledger.tally import TallyFile
from metaseq_plugin.ledger.window import Window
from metaseq_plugin.storage.json_lines import Row

# What somebody else knows of a window of updates: its line so far, with "update" and "seconds" -> more fields.
Source = Callable[[Row], Row]


class Recorder:
    """Writes for one start of a run; an ``Observer`` of it (compat/recorded_run.py).

    Attributes:
        run: the folder of the run.
        clock: where its time goes.
        sources: asked for more fields of each line of updates.jsonl, in order.
        facts: more fields of ``ready``, of whoever knows them before.
        leaves_nothing: the first start of a run was refused before it could train: no run, and no ledger.
    """

    def __init__(self, cfg: Any, journal: Journal, clock: Clock, before: Ledger) -> None:
        self.run = Path(cfg.checkpoint.save_dir)
        self.clock = clock
        self.sources: List[Source] = []
        self.facts: Row = {}
        self._interval = int(option(cfg.task, "ledger_interval"))
        self._clip_norm = float(cfg.optimization.clip_norm)
        self._journal = journal
        self._before = before
        self.leaves_nothing = False
        self._is_first = not before.events and before.tally is None
        self._is_ready = False
        self._start: Row = {}
        self._loaded: Optional[str] = None  # the checkpoint that this start began with
        self._window: Optional[Window] = None
        self._lr = math.nan
        self._loss_scale: Optional[float] = None
        self._reduced: Optional[Sums] = None
        self._why_skipped: Optional[str] = None
        self._found: Row = {}
        self._ran_out = False  # of memory, in the update that is being made
        self._subsets: Iterator[str] = iter(())
        self._subset_began = 0.0

    def event(self, kind: str, **fields: Any) -> None:
        """Write an event, on the disk when this returns."""
        self._journal.event(self._row(kind=kind, **fields))
        self._count_unwritten()

    def _row(self, **fields: Any) -> Row:
        place = {"update": self.clock.update, "start": self.clock.start}
        return {"time": round(time.time(), 3), **place, **fields}

    def _count_unwritten(self) -> None:
        self.clock.unwritten(self._journal.unwritten)

    # How it begins and ends.

    def started(self, fields: Row) -> None:
        """Write ``start``, and what was lost with the start before it."""
        self._start = fields
        last = self._before.tally
        killed = last is not None and not last.has_ended
        if last is not None and killed:
            fields = {
                **fields,
                "before": {
                    "start": last.start, "update": last.update, "done": last.done, "seen": last.seen,
                    "accounts": last.seconds_by_account,
                },
            }  # fmt: skip
        self.event("start", format=FORMAT, **fields)
        if last is not None and last.unwritten:
            self.event(
                "missing",
                lines=last.unwritten,
                since=last.began,
                reason=f"start {last.start} ended before they could be written",
            )

    def ready(self, trainer: Any) -> None:
        """All is loaded, and the first update is next."""
        self._is_ready = True
        update = trainer.get_num_updates()
        self.clock.begins_at(update)
        known = {"first_update": update, **model_facts(trainer), **self.facts}
        self.event("ready", **{**known, "seconds": self.clock.seconds})
        if self._loaded is not None:
            self._resumed(self._loaded)

    def _resumed(self, path: str) -> None:
        changed: Dict[str, Any] = {}
        if self._before.starts:
            changed = changes(self._before.starts[-1], self._start)
        self.event("resume", **{"from": path, "changed": changed})
        schedule = of_the_schedule(changed.get("options", {}))
        if schedule:
            self.event("lr", changed=schedule)

    def refused(self) -> None:
        """The run ends by a mistake in what was asked for."""
        self.leaves_nothing = not self._is_ready and self._is_first

    def ended(self, reason: str) -> None:
        """Write what is left, and ``end``."""
        try:
            self._write_window()
        except (
            RuntimeError
        ) as error:  # a device that is broken gives no numbers, and ``end`` matters more
            why = f"the last numbers could not be read: {brief(str(error))}"
            self.event("missing", lines=1, since=round(time.time(), 3), reason=why)
        self.event(
            "end",
            reason=reason,
            done=self.clock.done,
            seconds=self.clock.seconds,
            accounts=self.clock.seconds_by_account(),
        )
        if not self._journal.unwritten:
            self.clock.ended()

    # What it is told while the run goes on: ``Observer``.

    def loaded(self, path: str) -> None:
        self._loaded = path

    def computing(self) -> None:
        self.clock.switch("computing")
        if self._window is None:
            self._begin_window()

    def waiting(self) -> None:
        self.clock.switch("waiting")

    def reduced(self, sums: Sums) -> None:
        self._reduced = sums

    def behind_update(self, update: int, lr: float, loss_scale: Optional[float]) -> None:
        self._lr = lr
        was_made = self._reduced is not None
        if self._reduced is not None and self._window is not None:
            self._window.add(self._reduced)
            self._reduced = None
        if update != self.clock.update:
            self.clock.made(update)
        if not was_made:
            self._skipped(loss_scale)
        self._ran_out = False
        if loss_scale != self._loss_scale:
            if self._loss_scale is not None:
                self.event("loss_scale", before=self._loss_scale, now=loss_scale)
            self._loss_scale = loss_scale
        if self._window is not None and len(self._window) >= self._interval:
            self._write_window()

    def _skipped(self, loss_scale: Optional[float]) -> None:
        if self._ran_out:
            self.event("skipped", why="out of memory")
        elif self._why_skipped is not None:
            self.event("skipped", why=self._why_skipped)
            self._why_skipped = None
        else:
            self.event("overflow", loss_scale=self._loss_scale or loss_scale)

    @contextmanager
    def validating(self, subsets: List[str]) -> Iterator[None]:
        self._subsets, self._subset_began = iter(subsets), time.monotonic()
        with self.clock.within("validating"):
            yield

    def validated(self, stats: Mapping[str, Any]) -> None:
        now = time.monotonic()
        numbers = {name: float(stats[name]) for name in ("loss", "ppl") if name in stats}
        seconds, self._subset_began = now - self._subset_began, now
        self.event("valid", subset=next(self._subsets, None), **numbers, seconds=seconds)

    @contextmanager
    def saving(self) -> Iterator[None]:
        before, began_at = manifests(self.run), time.monotonic()
        with self.clock.within("saving"):
            yield
            seconds = time.monotonic() - began_at
            new = [path for path, sign in manifests(self.run).items() if before.get(path) != sign]
            if new:
                saved = [Manifest.read(path) for path in sorted(new)]
                self.event(
                    "save",
                    path=str(self.run / f"{saved[0].stem}.pt"),
                    names=[manifest.stem for manifest in saved],
                    seconds=seconds,
                    stall=seconds,  # a save stands in the way of training from end to end
                    bytes=sum(facts.num_bytes for facts in saved[0].files.values()),
                )

    def out_of_memory(self) -> None:
        self._ran_out = True
        self.event("out_of_memory", rank=0)

    # What the watch does about an update (``watch.py``).

    def skips(self, why: str) -> None:
        """The update that is being made is not made."""
        self._why_skipped = why

    def goes_back(self, done: int, to: int, **fields: Any) -> None:
        """After so many updates the run goes back to a checkpoint of ``to``."""
        self._write_window()
        self._window = None
        self.event("rewind", **{"from": done, "to": to}, **fields)
        self.clock.switch("rewinding")

    def has_gone_back(self, update: int) -> None:
        """The checkpoint is loaded, and the update after ``update`` is next."""
        self.clock.goes_on_from(update)

    def logs(self, **fields: Any) -> None:
        """What it has found of an update, for the next line of numbers."""
        self._found.update(fields)

    # Numbers.

    def _begin_window(self) -> None:
        self._window = Window(self._clip_norm, self.clock.seconds, self.clock.seconds_by_account())

    def _write_window(self) -> None:
        if self._window is None or not len(self._window):
            return
        seconds, accounts = self.clock.seconds, self.clock.seconds_by_account()
        row = self._row(**self._window.row(self._lr, self._loss_scale, seconds, accounts))
        row.update(self._found)
        self._found = {}
        for source in self.sources:
            row.update(source(row))
        self._journal.numbers(row)
        self._count_unwritten()
        self._begin_window()


def manifests(folder: Path) -> Dict[Path, "tuple[int, int]"]:
    """The manifests of the checkpoint sets in ``folder``, and what changes when one is replaced."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.endswith(MANIFEST_SUFFIX)]
        signs = [(entry.path, entry.stat(follow_symlinks=False)) for entry in found]
    return {Path(path): (sign.st_ino, sign.st_mtime_ns) for path, sign in signs}


def current_recorder() -> Optional[Recorder]:
    """That of the run that this process trains; None on other ranks than the first, and without a ledger."""
    found = observer()
    return found if isinstance(found, Recorder) else None


@contextmanager
def recording(cfg: Any, ranks: Ranks) -> Iterator[Optional[Recorder]]:
    """The recorder of the run on rank 0, until the block ends; called on every rank.

    Raises:
        UserError: on all ranks: the ledger cannot be written, or is of a later version.
    """
    check_options(cfg.task)
    if cfg.checkpoint.no_save or option(cfg.task, "no_ledger"):
        yield None
        return
    found: List[Recorder] = []
    try:
        with ExitStack() as stack:
            on_first(ranks, lambda: found.append(opened(cfg, stack)))
            yield from writing(found[0]) if found else iter((None,))
    finally:
        if found and found[0].leaves_nothing:
            forget(ledger_folder(found[0].run))


def writing(recorder: Recorder) -> Iterator[Recorder]:
    """The recorder, and ``end`` with its reason when the run is over."""
    reason = "finished"
    try:
        yield recorder
    except BaseException as error:
        reason = told(recorder, error)
        raise
    finally:
        recorder.ended(reason)


def opened(cfg: Any, stack: ExitStack) -> Recorder:
    """The recorder of a new start, its ``start`` written; ``stack`` closes its files."""
    folder = ledger_folder(Path(cfg.checkpoint.save_dir))
    with refusing(folder):
        before = read_ledger(folder.parent, with_updates=False)
        if before.is_newer:
            raise UserError(
                f"`--save-dir` must have a ledger of format {FORMAT}, but {folder} is of {before.format}: a later "
                "version wrote it. Update metaseq-plugin, or set --no-ledger."
            )
        journal = stack.enter_context(Journal(folder / EVENTS, folder / UPDATES))
    numbers = [event.get("start") for event in before.starts]
    last = max((number for number in numbers if isinstance(number, int)), default=-1)
    last = max(last, -1 if before.tally is None else before.tally.start)
    # Where one process trains twice, as in a notebook, the second start begins behind the first.
    seen = 0.0 if before.tally is None else before.tally.seen
    since = min(time.time(), max(process_began(), seen))
    # Takes a while, for which the tally of the start before stays: nothing else knows what that had done.
    facts = began(cfg)
    with refusing(folder):
        clock = stack.enter_context(Clock(TallyFile(folder / TALLY), last + 1, since))
    recorder = Recorder(cfg, journal, clock, before)
    recorder.started({"began": since, **facts})
    return recorder


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Within, a file of the ledger in ``folder`` that cannot be read or written is refused in a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"`--save-dir` must be a folder whose ledger can be written, but {error.filename or folder} cannot "
            f"({error.strerror or error}). Make it writable, or set --no-ledger to keep none."
        ) from error


def told(recorder: Recorder, error: BaseException) -> str:
    """The reason of an end by ``error``; what it says of others is written."""
    if isinstance(error, NothingToDo):
        return f"nothing to do: {error}"
    number = signal_of(error)
    if number is not None:
        name = signal.Signals(number).name
        recorder.event("signal", name=name)
        return f"stopped by {name}"
    if isinstance(error, (UserError, AssertionError)):  # fairseq asserts what options must be
        recorder.refused()
    if isinstance(error, UserError):
        return str(error)
    lost = lost_rank(error)
    if lost is not None:
        recorder.event("lost_rank", reason=lost)
        return lost
    said = str(error).strip().split("\n")[0]
    return brief(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def signal_of(error: BaseException) -> Optional[int]:
    """The signal that ended the run, if one did."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    is_exit = isinstance(error, SystemExit) and isinstance(error.code, int)
    number = error.code - 128 if is_exit else 0  # type: ignore[attr-defined]
    return number if number in set(signal.Signals) else None
