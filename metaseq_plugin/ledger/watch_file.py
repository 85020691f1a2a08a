"""What watching a run has to remember when it is started again: ``RUN/ledger/watch.json``.

    {"version": 1, "rewinds": [{"time": …, "at": 57, "to": 40, "first": 52, "last": 61, "lr_factor": 1.0}],
     "seen": [[1, 5.32, 1.71], …]}

``rewinds`` are all that the run made, in order, and ``seen`` is what the detector of spikes knew at the last save. Rank
0 writes the file whole or not at all.
"""

import json
from pathlib import Path
from typing import List, NamedTuple, Tuple, TypedDict

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.files import ledger_folder
from metaseq_plugin.ledger.spikes import Seen
from metaseq_plugin.storage import atomic, json_file
from metaseq_plugin.storage.typed import check

NAME = "watch.json"
VERSION = 1


class Rewind(TypedDict):
    """One time that the run went back."""

    time: float  # in seconds since 1970
    at: int  # the update that spiked, and was not made
    to: int  # updates of the checkpoint that it went back to
    first: int  # the updates whose batches it went past
    last: int
    lr_factor: float


class _Content(TypedDict):
    rewinds: List[Rewind]
    seen: List[Tuple[int, float, float]]


class Remembered(NamedTuple):
    """What the file says."""

    rewinds: List[Rewind]
    seen: List[Seen]


def read(run: Path) -> Remembered:
    """What is remembered of ``run``, a --save-dir; nothing where there is no file.

    Raises:
        UserError: a file that is not of this version, or no such file at all.
    """
    path = ledger_folder(run) / NAME
    if not path.exists():
        return Remembered([], [])
    content = json_file.read(path)
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} must be of version {VERSION}, but is of {content.get('version')}. Update metaseq-plugin, or "
            "set --no-ledger."
        )
    check(content, _Content, "the file", path)
    return Remembered(content["rewinds"], [Seen(*row) for row in content["seen"]])


def write(run: Path, remembered: Remembered) -> None:
    """Write what is remembered of ``run``.

    Raises:
        OSError: it cannot be written.
    """
    path = ledger_folder(run) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": VERSION, **remembered._asdict()}
    with atomic.replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
