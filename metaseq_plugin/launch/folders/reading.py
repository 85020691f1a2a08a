"""Run folders as they are found: which of them are there, and what each was launched as.

A run folder is one with ``launch/run.json`` or ``launch/events.jsonl`` in it.
"""

from pathlib import Path
from typing import Any, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.folders import events
from metaseq_plugin.launch.folders.explain import RUN_FILE, VERSION
from metaseq_plugin.launch.spec import LAUNCH, Launch
from metaseq_plugin.storage import json_file, run_folders

NOTHING = (
    f"RUN must be a run folder or a folder of run folders, but {{}} has no {LAUNCH}/{RUN_FILE}, nor has a folder in it. "
    "Give a --save-dir of `metaseq launch`."
)


def is_run(folder: Path) -> bool:
    return any((folder / LAUNCH / name).is_file() for name in (RUN_FILE, events.FILE))


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among ``folders`` and below them; UserError as ``storage/run_folders.py`` says it."""
    return run_folders.find_runs(folders, is_run, NOTHING)


def one_run(folder: Path) -> Path:
    """``folder``, or the only run below it; UserError as ``storage/run_folders.py`` says it."""
    return run_folders.one_run(folder, is_run, NOTHING)


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
