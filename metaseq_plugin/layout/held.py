"""What of a model this rank holds: by name, its own tensors and the pieces of the full ones they are.

The plans mark every parameter that they cut with its ``Piece`` (``mark``); a parameter without a mark
is held whole. Names are those of an uncut model, whatever wrapper stands around it.
"""

from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor, nn

from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.layout.shards import is_shard, is_sharding


def mark(parameter: nn.Parameter, piece: Piece, is_model_part: bool) -> None:
    """Say that ``parameter``, or its local shard, is ``piece`` of the full tensor.

    Args:
        is_model_part: tensor parallelism cuts it; otherwise every model part holds the same.
    """
    vars(parameter).update(piece=piece, is_model_part=is_model_part)


def held_piece(parameter: Tensor) -> Piece:
    """The piece of the full tensor that this rank holds of ``parameter``."""
    piece: Optional[Piece] = vars(parameter).get("piece")
    return Piece.whole(parameter.shape) if piece is None else piece


def is_model_part(parameter: Tensor) -> bool:
    """Whether the other ranks of the tensor-parallel group hold other parts of ``parameter``."""
    return bool(vars(parameter).get("is_model_part"))


def local(tensor: Tensor) -> Tensor:
    """This rank's part of ``tensor``, sharing its memory."""
    held: Any = tensor
    return held.to_local() if is_shard(tensor) else held


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside fairseq's, PyTorch's and our own wrappers, which all call it ``module``."""
    while isinstance(inner := module._modules.get("module"), nn.Module):
        module = inner
    return module


def named_pieces(module: nn.Module) -> Iterator[Tuple[str, nn.Parameter, Piece]]:
    """(name, parameter, piece) of every parameter of ``module``, in the model's own order."""
    model = unwrapped(module)
    part: Any
    for part in model.modules():
        if is_sharding(part):
            part.reshard()  # show the shards, not what happens to be gathered
    for name, parameter in model.named_parameters():
        yield name, parameter, held_piece(parameter)


def pieces_of(module: nn.Module) -> Dict[str, Piece]:
    """name -> the piece that this rank holds."""
    return {name: piece for name, _, piece in named_pieces(module)}


def local_tensors(module: nn.Module) -> Dict[str, Tensor]:
    """name -> what this rank holds, detached, sharing memory with the parameters."""
    return {name: local(parameter.detach()) for name, parameter, _ in named_pieces(module)}


def give_memory(model: nn.Module, device: str) -> None:
    """Replace parameters on the meta device by ones with memory on ``device`` and the same marks."""
    marks = {name: dict(vars(parameter)) for name, parameter in model.named_parameters()}
    model.to_empty(device=torch.device(device))
    for name, parameter in model.named_parameters():
        vars(parameter).update(marks[name])
