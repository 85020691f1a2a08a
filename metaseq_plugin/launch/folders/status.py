"""Look how runs stand: state, update, loss, tokens/s, time to go, restarts, and what happened last.

    metaseq launch status runs/a runs/b
    metaseq launch status sweeps/lr             all runs in and below a folder
    metaseq launch status sweeps/lr --watch     again every 10 seconds, until Ctrl-C
    metaseq launch status sweeps/lr --json      for programs

SLURM is asked once for all runs; of a local run, whether its process lives. Update, loss and speed come from the last
lines of rank 0's log. The states: new, queued, running, finished, failed, stopped, gave_up, and unknown where SLURM
cannot be asked. A run whose job has ended without a word has failed.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.reading import find_runs
from metaseq_plugin.launch.folders.standing import UNKNOWN, Standing, plain, standings
from metaseq_plugin.launch.folders.table import draw

WATCH_OPTION = "--watch"
WATCH_SECONDS = 10.0
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run folder, or a folder of run folders"
    )
    add("--json", action="store_true", help="print a JSON list, one object a run")
    add(WATCH_OPTION, type=float, nargs="?", const=WATCH_SECONDS, metavar="SECONDS",
        help="look again and again, until Ctrl-C (default: every %(const)g seconds)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Print the table, once or again and again."""
    if args.watch is not None and not 0.1 <= args.watch <= 86_400:
        raise UserError(
            f"`{WATCH_OPTION}` must be 0.1 to 86400 seconds, but is {args.watch:g}. Set such a number."
        )
    try:
        while True:
            text = status_text(args.runs, args.json)
            is_terminal = args.watch is not None and not args.json and sys.stdout.isatty()
            print(f"{CLEAR if is_terminal else ''}{text}", flush=True)  # noqa: T201
            if args.watch is None:
                return
            time.sleep(args.watch)
    except KeyboardInterrupt:
        if args.watch is None:
            raise
    except BrokenPipeError:  # of `| head`
        sys.stderr.close()


def status_text(folders: Sequence[Path], is_json: bool) -> str:
    """What the command prints.

    Raises:
        UserError: a folder has no run, or nothing can be read of the only one.
    """
    rows, problem = standings(find_runs(folders))
    if len(rows) == 1 and rows[0].state == UNKNOWN:
        raise UserError(*(sentence for sentence in (rows[0].problem, problem) if sentence))
    if is_json:
        return json.dumps([plain(row) for row in rows])
    return draw(rows, shutil.get_terminal_size().columns, problem)


def state_of(save_dir: Path) -> str:
    """ "new", "queued", "running", "finished", "failed", "stopped" or "gave_up".

    Raises:
        UserError: it cannot be known, as where squeue fails.
    """
    return states_of([save_dir])[save_dir]


def states_of(save_dirs: Sequence[Path]) -> dict[Path, str]:
    """The state of each of many runs, for one question to SLURM; folders that are not there are new.

    Raises:
        UserError: that of one cannot be known.
    """
    rows, problem = standings(save_dirs)
    check_known(rows, problem)
    return {row.save_dir: row.state for row in rows}


def check_known(rows: Sequence[Standing], problem: str) -> None:
    """Refuse where nobody can say whether a run is still running."""
    for row in rows:
        if row.state == UNKNOWN:
            raise UserError(
                f"RUN must be in a known state, but {row.save_dir} is not. {row.problem} {problem}".strip()
            )
