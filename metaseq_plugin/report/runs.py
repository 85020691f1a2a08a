"""Find the runs that have a ledger, and read their accounts with what the launcher recorded.

accounts, problems = read_accounts([Path("runs")], Settings())
"""

import os
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.files import FOLDER, has_ledger
from metaseq_plugin.ledger.read_account import AS_RUN, read_account
from metaseq_plugin.ledger.totals import Settings

MAX_DEPTH = 3  # a sweep's stages, and a run for each point


def find_runs(folders: Sequence[Path]) -> List[Path]:
    """The folders with a ledger among ``folders`` and below them, each once, by name.

    Raises:
        UserError: a folder is none, cannot be read, or has no such run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"RUN must be a run folder or a folder of run folders, but {folder} is "
                f"{'a file' if folder.exists() else 'not there'}. Check the path."
            )
        try:
            runs = list(runs_below(folder, MAX_DEPTH))
        except OSError as error:
            raise UserError(
                f"RUN must be a folder that can be read, but {error.filename} cannot ({error.strerror})."
                " Check its rights."
            ) from error
        if not runs:
            raise UserError(
                f"RUN must be a --save-dir with a {FOLDER}, or a folder of such, but {folder} has none. "
                "Check the path; a run with --no-ledger keeps none."
            )
        found.update(dict.fromkeys(runs))
    return list(found)


def runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if has_ledger(folder):
        yield folder
        return
    if depth == 0:
        return
    with os.scandir(folder) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    for name in below:
        yield from runs_below(folder / name, depth - 1)


def one_run(folder: Path) -> Path:
    """``folder``, or the only run below it.

    Raises:
        UserError: it has none, or several.
    """
    runs = find_runs([folder])
    if len(runs) > 1:
        raise UserError(
            f"RUN must be one run folder, but {folder} holds {len(runs)}. Set one of them: {runs[0]}"
        )
    return runs[0]


def account_of(run: Path, settings: Settings = AS_RUN) -> Account:
    """The account of one run, the launcher's events with it.

    Raises:
        UserError: its ledger cannot be read.
    """
    try:
        launch_events = read_events(run).events
    except OSError as error:
        raise UserError(
            f"RUN must be a folder that can be read, but {error.filename} cannot ({error.strerror}). "
            "Check its rights."
        ) from error
    return read_account(run, launch_events, settings)


def read_accounts(folders: Sequence[Path], settings: Settings) -> "Tuple[List[Account], List[str]]":
    """Those of all runs that can be read, and a sentence for each that cannot.

    Raises:
        UserError: none can be read.
    """
    accounts, problems = [], []
    for run in find_runs(folders):
        try:
            accounts.append(account_of(run, settings))
        except UserError as error:
            problems.append(str(error))
    if not accounts:
        raise UserError(*dict.fromkeys(problems))  # a wrong --pue is one for each run
    return accounts, problems
