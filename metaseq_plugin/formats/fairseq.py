"""A fairseq checkpoint: found, read, and written with every key that fairseq's loaders ask for."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple

from torch import Tensor

from metaseq_plugin.checkpoint.manifest import FileName, set_name
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.hf.names import EMBEDDING
from metaseq_plugin.sizes import ARCH, is_opt
from metaseq_plugin.storage import torch_file

FAIRSEQ_CHECKPOINT = "checkpoint.pt"  # what a conversion makes
# Which checkpoint a run folder means, the first that is there.
IN_FOLDER = ("checkpoint_best.pt", "checkpoint_last.pt", FAIRSEQ_CHECKPOINT)


class Checkpoint(NamedTuple):
    """What conversion needs of a checkpoint."""

    path: Path
    model_settings: Dict[str, Any]  # cfg.model
    data: str  # cfg.task.data, or ""
    tensors: Dict[str, Tensor]  # by our names, mapped from the file


def exists(path: Path) -> bool:
    """Whether ``path`` is a file or folder, or names a checkpoint in parts."""
    return path.exists() or set_name(path).exists


def find_checkpoint(src: Path) -> Path:
    """The checkpoint that ``src``, any path of one or a run folder, means.

    Raises:
        UserError: none there.
    """
    if not src.is_dir():
        return src
    for name in IN_FOLDER:
        if exists(src / name):
            return src / name
    raise UserError(
        f"SRC must hold one of {', '.join(IN_FOLDER)}, but {src} holds none. Give the checkpoint file."
    )


def read_whole(path: Path) -> Any:
    """What is saved at ``path``, its tensors whole, from one file or from all of a set."""
    name = set_name(path)
    parsed = FileName.parse(path.name)
    is_part = parsed is not None and not parsed.is_whole
    if name.manifest_path.is_file() or is_part or (name.exists and not path.exists()):
        return CheckpointSet.open(path).whole()
    return torch_file.read(path)


def read_checkpoint(src: Path) -> Checkpoint:
    """Read the checkpoint of an OPT that fairseq trained, without loading its tensors.

    Raises:
        UserError: unreadable, not a fairseq checkpoint, or of another architecture.
    """
    path = find_checkpoint(src)
    state = read_whole(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        keys = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else "something else"
        raise UserError(
            f"SRC must be a fairseq checkpoint with the keys cfg and model, but {path} holds {keys}. "
            "For a Hugging Face folder set --to fairseq."
        )
    cfg = state.get("cfg") or {}
    settings, task = cfg.get("model"), cfg.get("task")
    name = str(settings.get("_name")) if isinstance(settings, dict) else "no model's"
    if not isinstance(settings, dict) or not is_opt(name):
        raise UserError(
            f"SRC must be a checkpoint of --arch {ARCH} or {ARCH}_…, but {path} is of "
            f"{name}. Only OPT models can be converted."
        )
    if EMBEDDING not in state["model"]:
        raise UserError(
            f"SRC must hold the whole model, but {path} lacks `{EMBEDDING}`. Convert from a complete, "
            "unmodified checkpoint."
        )
    data = (task.get("data") if isinstance(task, dict) else None) or ""
    return Checkpoint(path, settings, data, state["model"])


def build_state(tensors: Mapping[str, Tensor], cfg: Dict[str, Any]) -> Dict[str, Any]:
    """What fairseq saves, for a model that no run of fairseq has trained yet.

    ``--finetune-from-model`` and ``--restore-file`` look up the last entry of ``optimizer_history``
    and ``extra_state["train_iterator"]`` before they look at what they reset.
    """
    history: List[Dict[str, Any]] = [
        {
            "criterion_name": "none",
            "optimizer_name": "none",
            "lr_scheduler_state": {},
            "num_updates": 0,
        }
    ]
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(tensors),
        "criterion": None,
        "optimizer_history": history,
        "task_state": {},
        "extra_state": {
            "train_iterator": {
                "version": 2,
                "epoch": 1,
                "iterations_in_epoch": 0,
                "shuffle": True,
            },
        },
        "last_optimizer_state": None,
    }
