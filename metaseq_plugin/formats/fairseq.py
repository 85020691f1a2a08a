"""A fairseq checkpoint: read, and made with every key that fairseq's loaders ask for."""

from functools import partial
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor

from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.state import checked
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.data_folder import data_folder
from metaseq_plugin.formats.locate import Located
from metaseq_plugin.formats.tensors import EMBEDDING
from metaseq_plugin.layout.peers import ALONE, Ranks
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.sizes import ARCH, arch_of, is_opt
from metaseq_plugin.storage import torch_file
from metaseq_plugin.storage.lazy import Lazy, Tensors, twin

FAIRSEQ_CHECKPOINT = "checkpoint.pt"  # what a conversion makes


def read_whole(found: Located) -> Dict[str, Any]:
    """What is saved in ``found``, its tensors whole; of a set without the optimizer's state.

    Raises:
        UserError: unreadable, not a fairseq checkpoint, or one whose values are of other types.
    """
    if found.is_set:
        return CheckpointSet.open(found.path).whole()
    state = torch_file.read(found.files[0])
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        keys = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else "something else"
        raise UserError(
            f"The model must be a fairseq checkpoint with the keys cfg and model, but {found.path} holds "
            f"{keys}. Give a checkpoint, or the folder of a Hugging Face model."
        )
    return checked(state, found.path)


def read_set(found: Located, ranks: Ranks) -> Tuple[Dict[str, Any], Tensors]:
    """What the first file of a set holds, and the set's tensors, put together when they are asked for."""
    opened = CheckpointSet.open(found.path, ranks)
    lazy = {}
    for name, piece in opened.pieces.items():
        whole, cut = Piece.whole(piece.shape), partial(opened.tensor, name)
        held = opened.first.weight(name)  # None: whoever makes the tensor is told
        dtype = torch.float32 if held is None else held[1].dtype
        lazy[name] = Lazy(twin(whole.size, dtype), partial(cut, whole), cut)
    return opened.first.state, Tensors(lazy)


def read_checkpoint(
    found: Located, ranks: Ranks = ALONE
) -> Tuple[Dict[str, Any], Optional[Path], Mapping[str, Tensor], Tensors]:
    """Read the checkpoint of an OPT that fairseq trained, without loading its tensors.

    Args:
        ranks: those that read it together, and divide the work of verifying a set.

    Returns:
        ``cfg.model``, the data folder if it is found, what to check the tensors by, and the tensors,
        whole, by our names.

    Raises:
        UserError: unreadable, not a fairseq checkpoint, or of another architecture.
    """
    if found.is_set:
        state, tensors = read_set(found, ranks)
        shown: Mapping[str, Tensor] = tensors.twins
    else:
        state = read_whole(found)
        shown, tensors = state["model"], Tensors.of(state["model"])
    cfg = state.get("cfg")
    settings = cfg.get("model") if isinstance(cfg, Mapping) else None
    name = str(settings.get("_name")) if isinstance(settings, dict) else "an unknown model"
    if not isinstance(settings, dict) or not is_opt(name):
        raise UserError(
            f"The model must be a checkpoint of --arch {ARCH} or {ARCH}_…, but {found.path} is of "
            f"{name}. Give the checkpoint of an OPT."
        )
    if len(shown.get(EMBEDDING, torch.empty(0)).shape) != 2:
        raise UserError(
            f"The model must be whole, but {found.path} lacks `{EMBEDDING}`. Use a complete, unmodified "
            "checkpoint."
        )
    return settings, data_folder(found.path, state), shown, tensors


def build_state(tensors: Mapping[str, Tensor], cfg: Dict[str, Any]) -> Dict[str, Any]:
    """What fairseq saves, for a model that no run of fairseq has trained yet.

    ``--finetune-from-model`` and ``--restore-file`` look up the last entry of ``optimizer_history``
    and ``extra_state["train_iterator"]`` before they look at what they reset.
    """
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(tensors),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "none",
                "optimizer_name": "none",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
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


def fairseq_cfg(cfg: Any, data: Path) -> Dict[str, Any]:
    """A complete fairseq configuration, as a run with default options would have saved it."""
    arguments = ["", "--task", "opt_language_modeling", "--arch", "opt"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    container = OmegaConf.to_container(
        convert_namespace_to_omegaconf(parsed), resolve=True, enum_to_str=True
    )
    assert isinstance(container, dict)
    container["model"] = {**OmegaConf.to_container(cfg, enum_to_str=True), "_name": arch_of(cfg)}
    container["task"]["data"] = str(data.resolve())
    container["task"]["tokens_per_sample"] = cfg.decoder_max_positions
    return container
