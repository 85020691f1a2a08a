"""The data folder of a checkpoint: where its dictionary and its tokenizer's files lie now.

A run may have been copied or moved since. The folders that are looked at, in this order:

    beside the checkpoint           of `metaseq convert`, and of runs on raw text
    where it lay inside the run     runs/a/data: it went along
    as it was typed                 seen from where the command is given
    where it lay beside the run     runs/data
"""

from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from metaseq_plugin.checkpoint.set_file import DATA_FROM_RUN
from metaseq_plugin.formats.locate import is_hf, locate
from metaseq_plugin.storage import torch_file
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE


def folders_of(checkpoint: Path, state: Mapping[str, Any]) -> Iterator[Path]:
    """Where the data of ``checkpoint``, which holds ``state``, may lie; the likeliest first."""
    folder, from_run = checkpoint.parent, state.get(DATA_FROM_RUN)
    task = (state.get("cfg") or {}).get("task")
    typed = task.get("data") if isinstance(task, Mapping) else None
    kept = [] if from_run is None else [folder / from_run]
    is_beside = from_run is not None and ".." in Path(from_run).parts
    yield folder
    yield from () if is_beside else kept
    if typed:
        yield Path(typed.split(":")[0])
    yield from kept if is_beside else ()


def data_folder(checkpoint: Path, state: Mapping[str, Any]) -> Optional[Path]:
    """The first of them that holds a dictionary."""
    found = (f for f in folders_of(checkpoint, state) if (f / DICTIONARY_FILE).is_file())
    return next(found, None)


def data_folder_at(path: Path) -> Optional[Path]:
    """The data folder of the model that ``path`` means; its tensors are not read.

    Raises:
        UserError: there is no model, or its file is damaged.
    """
    if is_hf(path):
        return path
    found = locate(path)
    state = torch_file.read(found.files[0]) if found.files else {}
    return data_folder(found.path, state if isinstance(state, dict) else {})
