"""The files of a run's ledger, and their reader: ``RUN/ledger/``, where RUN is --save-dir.

    read_ledger(Path("runs/a")).events     # [{"time": …, "kind": "start", "update": 0, "start": 0, …}, …]

    events.jsonl     what happened, a JSON object a line, on the disk when the run goes on
    updates.jsonl    numbers of every --ledger-interval updates
    tally            how far the run is at this moment (``tally.py``); right after a kill, too

Fields of every line: ``time`` (seconds since 1970), ``start`` (which start of the run: 0, 1, …) and ``update``.
Lines of a person (``note``) may lack the last two. Events have their ``kind``:

    start            began (seconds since 1970), format, command, options (flat: "optimization.lr"), layout, versions,
                     git, hardware, data {path, files, bytes, hash}, before (of the start before it, if that was
                     killed: {start, update, done, seen, accounts}); and from ``ready``, which the reader adds:
                     first_update, num_parameters, tokens_per_sample, vocab_size, flops_per_token,
                     causal_flops_per_token, hardware_flops_per_token
    ready            seconds (of starting), first_update, …: everything is loaded, the first update is next
    resume           from, update, changed {options, layout, code, versions: {name: [before, now]}}
    save             path, names, seconds, stall, bytes
    valid            subset, loss, ppl, seconds
    lr               changed {name: [before, now]}: options of the schedule, by hand
    loss_scale       before, now
    overflow         loss_scale: an update that was not made, its gradients having overflowed
    skipped          why
    spike            of, value, z, policy, action
    rewind           from, to, skipped_updates, lr_factor
    nonfinite        module, parameter
    signal           name
    out_of_memory    rank
    lost_rank        reason
    hang
    excluded         node
    note             author, text
    missing          lines, since, reason: what could not be written, and why
    end              reason, update, done, seconds, accounts {starting, computing, …: seconds}

A line of updates.jsonl: updates, ntokens, loss (bits a token), gnorm, clip (%), lr, loss_scale, seconds, computing,
waiting, saving, validating, rewinding; tflops, mfu, hfu, watts, joules, energy_is, norms, noise_scale (tokens),
noise_trace, gradient_square where somebody knows them.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, List, NamedTuple, Optional

from metaseq_plugin.ledger.sound import sound, sound_tally
from metaseq_plugin.ledger.tally import Tally, read_tally
from metaseq_plugin.storage.json_lines import Row, parse_row, read_lines

FOLDER = "ledger"
EVENTS, UPDATES, TALLY = "events.jsonl", "updates.jsonl", "tally"
FORMAT = 1  # of these files; a later one may mean other things by the same names
OF_READY = ("time", "kind", "update", "start", "seconds")  # fields that ``start`` has by itself


class Ledger(NamedTuple):
    """What the files of a run hold.

    Attributes:
        events: in the order in which they were written.
        updates: lines of updates.jsonl, in order.
        tally: how far the latest start came; None where there is none.
        foreign: lines of either file that are none of ours, torn ones among them.
        format: the latest that a start was written in.
    """

    events: List[Row]
    updates: List[Row]
    tally: Optional[Tally]
    foreign: int
    format: int

    @property
    def is_newer(self) -> bool:
        """Whether a later version of the plugin wrote it, so that some of it may be misread here."""
        return self.format > FORMAT

    def of(self, *kinds: str) -> List[Row]:
        """The events of these kinds."""
        return [event for event in self.events if event["kind"] in kinds]

    @property
    def starts(self) -> List[Row]:
        return self.of("start")


def ledger_folder(run: Path) -> Path:
    return run / FOLDER


def has_ledger(run: Path) -> bool:
    return (run / FOLDER / EVENTS).exists()


def read_ledger(run: Path, with_updates: bool = True) -> Ledger:
    """The ledger of ``run``, a --save-dir; empty where there is none.

    Args:
        with_updates: read updates.jsonl, too, which grows with the run.

    Raises:
        OSError: a file is there and cannot be read.
    """
    folder = ledger_folder(run)
    lines = read_lines(folder / EVENTS)
    rows = (sound(parse_row(line)) for line in lines)
    events = [row for row in rows if row is not None and is_event(row)]
    update_lines = read_lines(folder / UPDATES) if with_updates else []
    rows = (sound(parse_row(line)) for line in update_lines)
    updates = [row for row in rows if row is not None and is_update(row)]
    foreign = len(lines) - len(events) + len(update_lines) - len(updates)
    formats = [event["format"] for event in events if is_whole(event.get("format"))]
    return Ledger(
        completed(events),
        updates,
        sound_tally(read_tally(folder / TALLY)),
        foreign,
        max(formats, default=FORMAT),
    )


def forget(folder: Path) -> None:
    """Delete a ledger that one start has made."""
    for name in (EVENTS, UPDATES, TALLY):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def is_event(row: Row) -> bool:
    return isinstance(row.get("kind"), str)


def is_update(row: Row) -> bool:
    return all(is_whole(row.get(name)) for name in ("update", "start", "updates"))


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def completed(events: List[Row]) -> List[Row]:
    """``events``, with what ``ready`` says of a start in the start itself."""
    ready = {event.get("start"): event for event in events if event["kind"] == "ready"}
    return [
        {**without(ready.get(event.get("start"), {})), **event}
        if event["kind"] == "start"
        else event
        for event in events
    ]


def without(ready: Row) -> Row:
    return {name: value for name, value in ready.items() if name not in OF_READY}
