"""Watch a run in the terminal, again and again, until Ctrl-C.

    metaseq watch runs/a
    metaseq watch runs/a --every 30          seconds between two looks (default: 5)

Progress, loss curve, time, energy and the last events. It reads the run's folder and nothing else, so it works over
ssh, from another host that sees the folder, for a run that has ended, too. The screen is as high as the terminal;
`metaseq report` has the rest. Into a file or a pipe it writes one screen after another.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import List

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.report.runs import account_of, one_run
from metaseq_plugin.report.screen import columns_of, live

SECONDS = 5.0
SHARE = 10  # a look that takes long is waited for so many times as long
# ECMA-48: go to the first place; clear to the end of the line; clear to the end of the screen.
HOME, TO_LINE_END, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the --save-dir of a run")
    parser.add_argument("--every", type=float, default=SECONDS, metavar="SECONDS",
                        help="between two looks (default: %(default)g)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Draw until Ctrl-C, which leaves the last screen where it is."""
    if not 0.1 <= args.every <= 86_400:
        raise UserError(
            f"`--every` must be 0.1 to 86400 seconds, but is {args.every:g}. Set such a number."
        )
    folder, is_first = one_run(args.run_folder), True
    try:
        while True:
            began = time.monotonic()
            size = shutil.get_terminal_size()
            # The last line of the terminal is the cursor's.
            lines = live(account_of(folder), columns_of(size.columns), size.lines - 1)
            is_terminal = sys.stdout.isatty()
            text = drawn(lines, is_first) if is_terminal else "\n".join([*lines, ""])
            print(text, flush=True, end="" if is_terminal else "\n")  # noqa: T201
            is_first = False
            time.sleep(max(args.every, SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # noqa: T201
    except BrokenPipeError:  # of `| head`
        sys.stderr.close()


def drawn(lines: List[str], is_first: bool) -> str:
    """The screen over the one before, without a flicker."""
    whole = "".join(f"{line}{TO_LINE_END}\n" for line in lines)
    return f"{HOME}{TO_END if is_first else ''}{whole}{TO_END}"
