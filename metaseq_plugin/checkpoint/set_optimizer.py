"""The optimizer's state of a checkpoint set, cut anew for the rank that reads it.

    state = state_with_optimizer(saved, pieces_of(model), names)        # otherwise ``saved.state_for``

What has its parameter's shape, the moments and fp32 master weights, is cut as the parameter is; numbers
are taken over. An optimizer that flattens its parameters cannot be cut, and goes on in the layout that
was saved only.
"""

from typing import Any, Dict, Optional, Sequence

from torch import Tensor

from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import MASTERS, Pieces, SavedFile
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.piece import Piece


def state_with_optimizer(
    saved: CheckpointSet,
    pieces: Pieces,
    params: Optional[Sequence[str]],
    with_masters: bool = False,
) -> Dict[str, Any]:
    """fairseq's state for a rank that holds ``pieces``, the optimizer's with it if there is one.

    Args:
        params: names of the optimizer's parameters in its order; None: it has others, one flattened
            for example.
        with_masters: the optimizer keeps fp32 master weights beside a 16-bit model.

    Raises:
        UserError: the set is of another model, or its optimizer state cannot be cut.
    """
    state = saved.state_for(pieces)
    first = saved.first
    if first.optimizer is None:
        return state
    if params is None or first.optimizer_params is None:
        state["last_optimizer_state"] = _as_saved(first, pieces, params)
    else:
        state["last_optimizer_state"] = _cut(
            saved, pieces, params, with_masters or MASTERS in first.optimizer
        )
    return state


def _as_saved(file: SavedFile, pieces: Pieces, params: Optional[Sequence[str]]) -> Any:
    """The optimizer's state of the same layout, untouched."""
    if pieces == file.pieces and file.optimizer_params is None and params is None:
        return file.optimizer
    which = "this run's" if params is None else "the checkpoint's"
    raise UserError(
        f"The optimizer's state must be kept parameter by parameter to be cut anew, but {which} "
        "is flattened. Set --fp16-no-flatten-grads as in the checkpoint, or --reset-optimizer."
    )


def _cut(
    saved: CheckpointSet, pieces: Pieces, params: Sequence[str], with_masters: bool
) -> Dict[str, Any]:
    first = saved.first
    assert first.optimizer is not None
    assert first.optimizer_params is not None
    if set(first.optimizer_params) != set(params):
        raise UserError(
            "The optimizer must have the parameters of the checkpoint "
            f"({len(first.optimizer_params)}), but has {len(params)}. "
            "Use the model that was saved, or set --reset-optimizer."
        )
    optimizer = {key: value for key, value in first.optimizer.items() if key != MASTERS}
    entries = {
        index: entry
        for index, name in enumerate(params)
        if (entry := _entry(saved, name, pieces[name]))
    }
    groups, start = [], 0
    for group in optimizer["param_groups"]:
        end = start + len(group["params"])
        groups.append({**group, "params": list(range(start, end))})
        start = end
    optimizer.update(state=entries, param_groups=groups)
    if with_masters:
        optimizer[MASTERS] = [saved.tensor(name, pieces[name]).float() for name in params]
    return optimizer


def _entry(saved: CheckpointSet, name: str, piece: Piece) -> Dict[str, Any]:
    """The optimizer's state of one parameter; empty where it was never updated."""
    entry: Dict[str, Any] = {}
    for file in saved.files():
        found = file.optimizer_entry(name)
        if found is not None:
            break
    else:
        return entry
    for key, value in found.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            entry[key] = value
        elif value.shape == file.pieces[name].size:
            # A copy: it will be written to, and outlive the file.
            entry[key] = saved.moment(name, key, piece).clone()
        elif piece == file.pieces[name]:
            entry[key] = value
        else:
            raise UserError(
                f"The optimizer's state must have its parameter's shape to be cut anew, but `{key}` "
                f"of `{name}` does not. Resume in the layout that was saved, or --reset-optimizer."
            )
    return entry
