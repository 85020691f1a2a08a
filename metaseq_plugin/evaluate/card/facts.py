"""What a card is about: the model on disk, its run's account, and what was measured of it. Of weights, only
the few are read by which results are known to be of this model, where there are any.

    facts = read_facts(Path("runs/a"), name=None, results=[Path("results.json")])

(1) ``read_model`` maps the tensors: names and shapes are all that is wanted; (2) the account is that of the ledger in the
folder of the checkpoint; (3) results are those that are named, else those that ``metaseq eval`` left in a run's folder,
of each task those of most items.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.opening import fingerprint
from metaseq_plugin.evaluate.output import FOLDER
from metaseq_plugin.evaluate.results import SUFFIX, Results, read_results
from metaseq_plugin.formats.locate import is_hf
from metaseq_plugin.formats.model import Model, read_model
from metaseq_plugin.formats.tensors import count_parameters
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.ledger.account import Account
from metaseq_plugin.ledger.files import has_ledger
from metaseq_plugin.ledger.read_account import read_account


class Facts(NamedTuple):
    """All that a card may tell.

    Attributes:
        name: what the model is called.
        path: as it was given.
        dtypes: of the weights, in words.
        account: of its run; None: no ledger is beside it.
        results: file's name -> what was measured of it; no task is in two.
        digests: file's name -> its SHA-256.
        strangers: files of other weights or settings of the same size, by their fingerprints.
    """

    name: str
    path: Path
    model: Model
    num_parameters: int
    dtypes: str
    account: Optional[Account]
    results: Mapping[str, Results]
    digests: Mapping[str, str]
    strangers: Sequence[str]


def read_facts(
    path: Path,
    name: Optional[str],
    results: Optional[Sequence[Path]],
    data: Optional[Path] = None,
    trust_pickle: bool = False,
) -> Facts:
    """Look at the model at ``path``, and beside it.

    Args:
        name: None: that of the folder.
        results: files of ``metaseq eval``; None: those in the run's folder.
        data: as ``read_model`` takes it, with ``trust_pickle``.

    Raises:
        UserError: no model, an unreadable ledger, or results that are none, of another model, or, where they
            are named, of one task twice.
    """
    model = read_model(path, data, trust_pickle)
    num_parameters, dtypes = count_parameters(model.tensors.twins)
    folder = path if path.is_dir() else path.parent
    files = results_in(folder) if results is None else results
    found = {file.name: read_results(file) for file in files}
    if len(found) < len(files):
        raise UserError(
            f"`--results` must be files of different names, but are {', '.join(map(str, files))}. Rename one."
        )
    check_sizes(found, num_parameters)
    if results is None:
        found = of_most_items(found)
    else:
        check_tasks(found)
    return Facts(
        name=name or folder.resolve().name,
        path=path,
        model=model,
        num_parameters=num_parameters,
        dtypes=dtypes,
        account=None if is_hf(path) else account_of(folder),
        results=found,
        strangers=strangers(model, found),
        digests={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def results_in(folder: Path) -> list[Path]:
    """The files that ``metaseq eval`` writes into a run's folder where no other is named, by name."""
    return sorted((folder / FOLDER).glob(f"*{SUFFIX}"))


def account_of(folder: Path) -> Optional[Account]:
    """With what the launcher recorded; None where no ledger was kept."""
    if not has_ledger(folder):
        return None
    try:
        launch_events = read_events(folder).events
    except OSError as error:
        raise UserError(
            f"PATH must be a run folder that can be read, but {error.filename} cannot ({error.strerror}). "
            "Check its rights."
        ) from error
    return read_account(folder, launch_events)


def strangers(model: Model, found: Mapping[str, Results]) -> list[str]:
    """The files that say another fingerprint than that of ``model``; one of a server says none."""
    said = {file: results.model.get("fingerprint") for file, results in found.items()}
    if not any(said.values()):
        return []
    own = fingerprint(model)
    return [file for file, their in said.items() if their not in (None, own)]


def check_sizes(found: Mapping[str, Results], num_parameters: int) -> None:
    """Refuse results of a model of another size."""
    for file, results in found.items():
        size = results.model.get("num_parameters")
        if size not in (None, num_parameters):
            raise UserError(
                f"`--results` must be of this model of {num_parameters:,} parameters, but {file} is of one of "
                f"{size:,}. Measure this one."
            )


def check_tasks(found: Mapping[str, Results]) -> None:
    """Refuse a task that two files have."""
    holders: dict[str, str] = {}
    for file, results in found.items():
        for task in results.tasks:
            if task in holders:
                raise UserError(
                    f"`--results` must have each task once, but {holders[task]} and {file} both have {task}. "
                    "Name those that the card is to show."
                )
            holders[task] = file


def of_most_items(found: Mapping[str, Results]) -> dict[str, Results]:
    """The same without tasks that another file has of more items, or, of as many, a file further down."""
    best: dict[str, tuple[int, str]] = {}
    for file, results in found.items():
        for name, task in results.tasks.items():
            best[name] = max(best.get(name, (0, "")), (task.n, file))
    return {
        file: replace(
            results,
            tasks={name: task for name, task in results.tasks.items() if best[name][1] == file},
        )
        for file, results in found.items()
    }
