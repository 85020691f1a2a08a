"""Find the runs that have a ledger, and read their accounts with what the launcher recorded.

accounts, problems = read_accounts([Path("runs")], Settings())
"""

from pathlib import Path
from typing import List, Sequence, Tuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.files import FOLDER, has_ledger
from metaseq_plugin.ledger.read_account import AS_RUN, read_account
from metaseq_plugin.ledger.totals import Settings
from metaseq_plugin.storage import run_folders

NOTHING = (
    f"RUN must be a --save-dir with a {FOLDER}, or a folder of such, but {{}} has none. "
    "Check the path; a run with --no-ledger keeps none."
)


def one_run(folder: Path) -> Path:
    """``folder``, or the only run with a ledger below it; UserError as ``storage/run_folders.py`` says it."""
    return run_folders.one_run(folder, has_ledger, NOTHING)


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
    for run in run_folders.find_runs(folders, has_ledger, NOTHING):
        try:
            accounts.append(account_of(run, settings))
        except UserError as error:
            problems.append(str(error))
    if not accounts:
        raise UserError(*dict.fromkeys(problems))  # a wrong --pue is one for each run
    return accounts, problems
