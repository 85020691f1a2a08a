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
from metaseq_plugin.compat.checkpoint_settings import plain
from metaseq_plugin.formats.locate import is_hf, locate
from metaseq_plugin.storage import torch_file
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE


def folders_of(checkpoint: Path, state: Mapping[str, Any]) -> Iterator[Path]:
    """Where the data of ``checkpoint``, which holds ``state``, may lie; the likeliest first."""
    folder, from_run = checkpoint.parent, state.get(DATA_FROM_RUN)
    cfg = plain(state.get("cfg"))
    task = cfg.get("task") if isinstance(cfg, Mapping) else None
    typed = task.get("data") if isinstance(task, Mapping) else None
    is_beside = isinstance(from_run, str) and Path(from_run).parts[:1] == ("..",)
    kept = [folder / from_run] if isinstance(from_run, str) and may_be_from_run(from_run) else []
    yield folder
    yield from () if is_beside else kept
    if typed and isinstance(typed, str):
        yield Path(typed.split(":")[0])
    yield from kept if is_beside else ()


def may_be_from_run(folder: str) -> bool:
    """Whether a run saves such a path: in or beside its own folder (``checkpoint/save.py:data_from_run``)."""
    parts = Path(folder).parts
    return not Path(folder).is_absolute() and ".." not in parts[1:]


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
