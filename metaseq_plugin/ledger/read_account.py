"""Read the account of a run from its ledger: once through its lines, however many there are.

    read_account(Path("runs/a"))
    read_account(Path("runs/a"), launch_events=read_events(run).events)      # with the launcher's

``account.py`` says what is in it, and the steps.
"""

import time
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.account import MEASURED, Account
from metaseq_plugin.ledger.assemble import assembled
from metaseq_plugin.ledger.curves import Curve
from metaseq_plugin.ledger.files import (
    EVENTS,
    TALLY,
    UPDATES,
    completed,
    has_ledger,
    is_event,
    is_update,
    ledger_folder,
)  # fmt: skip
from metaseq_plugin.ledger.history import History, read_history, seconds
from metaseq_plugin.ledger.node_energy import energy_files, last_row
from metaseq_plugin.ledger.sound import sound, sound_tally
from metaseq_plugin.ledger.tally import read_tally
from metaseq_plugin.ledger.times import Times
from metaseq_plugin.ledger.totals import Metered, Settings, Totals
from metaseq_plugin.storage.json_lines import Row, parse_row, read_lines

AS_RUN = Settings()


class Lines:
    """The lines of updates.jsonl, one at a time; ``foreign`` counts those that are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.foreign = 0

    def __iter__(self) -> Iterator[Row]:
        self.foreign = 0
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            for line in stream:
                if not line.strip():
                    continue
                row = sound(parse_row(line))
                if row is not None and is_update(row) and row["updates"] > 0:
                    yield row
                else:
                    self.foreign += 1


class Folded:
    """What one pass over the lines leaves."""

    def __init__(self, history: History, lines: Lines) -> None:
        self.curve, self.times, self.totals = Curve(), Times(history), Totals()
        self.strangers: Dict[int, Row] = {}  # the first line of each start that no event tells of
        before = [stretch.last for stretch in history.stretches]
        places = {id(stretch): place for place, stretch in enumerate(history.stretches)}
        for line in lines:
            stretch = history.stretch_of(line["start"], line["time"])
            if stretch is None:
                self.strangers.setdefault(line["start"], line)
                continue
            stretch.hear(line["update"])
            share = stretch.share_lost(line["update"] - line["updates"], line["update"])
            self.curve.add(line, places[id(stretch)], share < 0.5)
            self.times.add(line, stretch)
            self.totals.add(line, share)
        self.is_further = before != [stretch.last for stretch in history.stretches]


def read_account(
    run: Path,
    launch_events: Sequence[Row] = (),
    settings: Settings = AS_RUN,
    now: Optional[float] = None,
) -> Account:
    """The account of ``run``, a --save-dir.

    Args:
        launch_events: what the launcher recorded of it, in order.
        settings: instead of what the run was told.
        now: seconds since 1970; default: by the clock.

    Raises:
        UserError: it has no ledger, or one that cannot be read.
    """
    if not has_ledger(run):
        raise UserError(
            f"RUN must be the --save-dir of a run that keeps a ledger, but {run} has no "
            f"{EVENTS} in {ledger_folder(run)}. Check the path; a run with --no-ledger has none."
        )
    folder = ledger_folder(run)
    try:
        event_lines = read_lines(folder / EVENTS)
        parsed = (sound(parse_row(line)) for line in event_lines)
        rows = [row for row in parsed if row is not None and is_event(row)]
        events, tally = completed(rows), sound_tally(read_tally(folder / TALLY))
        lines = Lines(folder / UPDATES)
        history = read_history(events, tally)
        folded = Folded(history, lines)
        if folded.strangers:
            strangers = folded.strangers.values()
            history = read_history(events, tally, strangers)
            folded = Folded(history, lines)
        if folded.is_further:  # than the events told: what is kept may be other than was thought
            history.link()
            folded = Folded(history, lines)
        metered = read_meters(folder)
    except OSError as error:
        raise UserError(
            f"RUN must be a folder whose ledger can be read, but {error.filename or folder} cannot "
            f"({error.strerror}). Check its rights."
        ) from error
    if not history.starts:
        raise UserError(
            f"RUN must be a folder whose ledger has a start in it, but {folder / EVENTS} has "
            f"{len(event_lines)} lines and none. Check that it is whole."
        )
    foreign = len(event_lines) - len(events) + lines.foreign
    problems = [f"{foreign:,} lines are torn, or not the ledger's: left out."] if foreign else []
    seen = time.time() if now is None else now
    sums = (folded.curve, folded.times, folded.totals)
    launched = [row for row in map(sound, launch_events) if row is not None]
    return assembled(run, history, sums, events, launched, metered, settings, seen, problems)


def read_meters(folder: Path) -> Optional[Metered]:
    """What all machines have used, by the last line of each one's file; None where there is none."""
    rows = [last_row(path) for path in energy_files(folder)]
    used = [(row, seconds(row.get("joules"))) for row in rows]
    known = [(row, joules) for row, joules in used if joules is not None]
    if not known:
        return None
    return Metered(
        sum(joules for _, joules in known),
        len(known) == len(rows) and all(row.get("energy_is") == MEASURED for row, _ in known),
        f"{len(known)} machine{'s' if len(known) > 1 else ''}: "
        + "; ".join(sorted({str(row.get("source")) for row, _ in known})),
    )
