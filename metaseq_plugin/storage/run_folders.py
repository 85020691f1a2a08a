"""Run folders among and below the folders that a command is given.

find_runs([Path("runs")], has_ledger, "{} has no ledger. Check the path.")
one_run(Path("runs/a"), has_ledger, …)
"""

import os
from pathlib import Path
from typing import Callable, Iterator, List, Sequence

from metaseq_plugin.compat.errors import UserError

MAX_DEPTH = 3  # a sweep's stages, and a run for each point
IsRun = Callable[[Path], bool]


def find_runs(folders: Sequence[Path], is_run: IsRun, nothing: str) -> List[Path]:
    """The runs among ``folders`` and below them, each once, those of a folder in the order of their names.

    Args:
        nothing: what is said of a folder, in the place of {}, that has no run.

    Raises:
        UserError: a folder is none, cannot be read, or has no run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        try:
            if not folder.is_dir():
                raise UserError(
                    f"RUN must be a run folder or a folder of run folders, but {folder} is "
                    f"{'a file' if folder.exists() else 'not there'}. Check the path."
                )
            runs = list(_runs_below(folder, is_run, MAX_DEPTH))
        except OSError as error:
            raise UserError(
                f"RUN must be a folder that can be read, but {error.filename} cannot ({error.strerror})."
                " Check its rights."
            ) from error
        if not runs:
            raise UserError(nothing.format(folder))
        found.update(dict.fromkeys(runs))
    return list(found)


def one_run(folder: Path, is_run: IsRun, nothing: str) -> Path:
    """``folder``, or the only run below it.

    Raises:
        UserError: it has none, or several.
    """
    runs = find_runs([folder], is_run, nothing)
    if len(runs) > 1:
        raise UserError(
            f"RUN must be one run folder, but {folder} holds {len(runs)}. Set one of them: {runs[0]}"
        )
    return runs[0]


def _runs_below(folder: Path, is_run: IsRun, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    with os.scandir(folder) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    for name in below:
        yield from _runs_below(folder / name, is_run, depth - 1)
