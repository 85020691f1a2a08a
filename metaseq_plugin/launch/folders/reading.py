"""Run folders as they are found: which of them are there, and what each was launched as.

A run folder is one with ``launch/run.json`` or ``launch/events.jsonl`` in it.
"""

import os
from pathlib import Path
from typing import Any, Iterator, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import events
from metaseq_plugin.launch.folders.explain import RUN_FILE, VERSION
from metaseq_plugin.launch.spec import LAUNCH, Launch
from metaseq_plugin.storage import json_file

MAX_DEPTH = 3  # a sweep's stages, and a run for each point


def is_run(folder: Path) -> bool:
    return any((folder / LAUNCH / name).is_file() for name in (RUN_FILE, events.FILE))


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among ``folders`` and below them, each once, those of a folder in the order of their names.

    Raises:
        UserError: a folder does not exist, cannot be read, or has no run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        try:
            if not folder.is_dir():
                raise UserError(
                    f"RUN must be a run folder or a folder of run folders, but {folder} is "
                    f"{'a file' if folder.exists() else 'not there'}. Check the path."
                )
            runs = list(runs_below(folder, MAX_DEPTH))
        except OSError as error:
            raise UserError(
                f"RUN must be a folder that can be read, but {error.filename} cannot ({error.strerror})."
                " Check its rights."
            ) from error
        if not runs:
            raise UserError(
                f"RUN must be a run folder or a folder of run folders, but {folder} has no "
                f"{LAUNCH}/{RUN_FILE}, nor has a folder in it. Give a --save-dir of `metaseq launch`."
            )
        found.update(dict.fromkeys(runs))
    return list(found)


def runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    with os.scandir(folder) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    for name in below:
        yield from runs_below(folder / name, depth - 1)


def one_run(folder: Path) -> Path:
    """``folder``, which is a run's.

    Raises:
        UserError: it is none, or holds several.
    """
    runs = find_runs([folder])
    if len(runs) > 1:
        raise UserError(
            f"RUN must be one run folder, but {folder} holds {len(runs)}. Set one of them: {runs[0]}"
        )
    return runs[0]


def read_launch(save_dir: Path) -> Launch:
    """What a run was launched as.

    Raises:
        UserError: run.json is missing, damaged, cannot be read, or of a later version.
    """
    path = save_dir / LAUNCH / RUN_FILE
    try:
        content = json_file.read(path)
    except OSError as error:
        raise UserError(
            f"{path} must be readable, but is not ({error.strerror}). Check its rights."
        ) from error
    version: Any = content.pop("version", None)
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path} must be of version {VERSION} or earlier, but is of {version}. "
            "Look at it with the metaseq-plugin that wrote it, or a newer one."
        )
    try:
        launch = Launch.from_json(content)
        dict(launch.spec.options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise json_file.unreadable(path, error) from error
    return launch
