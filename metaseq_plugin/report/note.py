"""Write a note into the ledger of a run, for its chronicle.

    metaseq note runs/a "Loss flat since 12k. Lowered the learning rate by a third."
    metaseq note runs/a --author oncall - < handover.txt

What you saw, decided or changed. The note stands at this time, and at the update where the run is. It may be written while the run trains, between its
starts, or after its end. `metaseq report runs/a --chronicle` shows it.
"""

import argparse
import getpass
import sys
import time
from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.files import EVENTS, TALLY, ledger_folder
from metaseq_plugin.ledger.tally import read_tally
from metaseq_plugin.report.runs import one_run
from metaseq_plugin.storage.json_lines import Lines

STDIN = "-"
MAX_CHARACTERS = 100_000  # a line of the ledger is read in one piece


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the --save-dir of a run")
    parser.add_argument(
        "text", nargs="+", metavar="TEXT", help="the note; - reads it from the standard input"
    )
    parser.add_argument("--author", help="who writes (default: your user name)")


def run(args: argparse.Namespace) -> None:
    """Append the note, and say where."""
    try:
        text = sys.stdin.read() if args.text == [STDIN] else " ".join(args.text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"TEXT must be {error.encoding}, but the standard input is not ({error.reason}). Convert it with iconv."
        ) from error
    path = write_note(one_run(args.run_folder), text, args.author)
    print(f"Noted in {path}")  # noqa: T201


def write_note(run: Path, text: str, author: "str | None" = None) -> Path:
    """Append a note to the ledger of ``run``; the file.

    Raises:
        UserError: the note is empty or too long, or the ledger cannot be written.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise UserError(
            f"TEXT must have 1 to {MAX_CHARACTERS:,} characters, but has {len(text):,}. "
            "Write a note, and put what is longer into a file beside the run."
        )
    folder = ledger_folder(run)
    try:
        tally = read_tally(folder / TALLY)
        place = {} if tally is None else {"update": tally.update, "start": tally.start}
        row = {
            "time": round(time.time(), 3), "kind": "note", **place, "author": author or user(),
            "text": text,
        }  # fmt: skip
        with Lines(folder / EVENTS) as lines:
            lines.append(row, durable=True)
    except OSError as error:
        raise UserError(
            f"RUN must be a folder whose ledger can be written, but {folder / EVENTS} cannot "
            f"({error.strerror or error}). Check its rights and the room on its disk."
        ) from error
    return folder / EVENTS


def user() -> str:
    """Who is logged in; "unknown" in a container without a name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
