"""Say what a run did and used: time, stops, FLOPs, energy, carbon.

    metaseq report runs/a                          a screen
    metaseq report runs/a --html a.html --open     a page with plots, and the browser on it
    metaseq report runs/a --chronicle > a.md       what happened and what people noted, by day
    metaseq report runs/a runs/b                   a table; with --html a page that compares them
    metaseq report runs --json                     for programs: a list, an object a run

RUN is a --save-dir, or a folder with some in and below it. The run may be running. Energy is measured where the run could
read a meter, and else estimated from rated power; each number says which. --pue and --carbon-intensity stand for those
of the run. `metaseq watch RUN` draws the screen again and again, `metaseq note RUN TEXT` adds to the chronicle.
"""

import argparse
import json
import os
import shutil
import sys
import webbrowser
from pathlib import Path

from metaseq_plugin.compat.errors import UserError, printable
from metaseq_plugin.ledger.carbon import INTENSITIES
from metaseq_plugin.ledger.files import ledger_folder
from metaseq_plugin.ledger.totals import Settings
from metaseq_plugin.report.chronicle import chronicle
from metaseq_plugin.report.runs import read_accounts
from metaseq_plugin.report.screen import columns_of, screen
from metaseq_plugin.report.table import table

PAGE = "report.html"  # in the ledger's folder, where --open names no other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="a --save-dir, or a folder of such")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print a JSON list, an object for each run"
    )
    form.add_argument(
        "--chronicle", action="store_true", help="print events and notes by day, as Markdown"
    )
    add("--html", type=Path, metavar="FILE", help="write a page that needs no network")
    add("--open", action="store_true", dest="is_opened",
        help=f"open the page (without --html: {PAGE} in the ledger of the first run)")  # fmt: skip
    add("--pue", type=float, metavar="X", help="energy of the building over that of its machines")
    add("--carbon-intensity", metavar="G", help=f"g CO2e/kWh, or one of {', '.join(INTENSITIES)}")


def run(args: argparse.Namespace) -> None:
    """Print the report, write the page, or both."""
    accounts, problems = read_accounts(args.runs, Settings(args.pue, args.carbon_intensity))
    columns = columns_of(shutil.get_terminal_size().columns)
    page = args.html
    if page is None and args.is_opened:
        page = ledger_folder(Path(accounts[0].path)) / PAGE
    if args.json:
        text = json.dumps([account.as_json() for account in accounts])
    elif args.chronicle:
        text = "\n".join(map(chronicle, accounts)).removesuffix("\n")
    elif len(accounts) > 1:
        text = "\n".join(table(accounts, columns))
    else:
        text = "\n".join(screen(accounts[0], columns))
    show(text)
    for problem in problems:
        print(f"metaseq report: {printable(problem)}", file=sys.stderr)  # noqa: T201
    if page is not None:
        from metaseq_plugin.report.page.file import write_page  # reads its scripts

        write_page(accounts, page)
        print(f"Written: {page}", file=sys.stderr)  # noqa: T201
        if args.is_opened and not webbrowser.open(page.absolute().as_uri()):
            raise UserError(
                f"`--open` must find a browser, but there is none. Open {page} where there is one."
            )


def show(text: str) -> None:
    """Print; what a terminal cannot encode is shown as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except BrokenPipeError:  # of `| head`: what is left goes nowhere, and what comes is still said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
