"""The state of Adam in metaseq's checkpoints and in ours.

Ours has one entry for each parameter. metaseq's has one for each flat tensor (flat.py), or
where nothing is flattened one for each parameter in the order of its model, q, k and v being one. Both
have the same two moments, so they go the way of the weights: flatten, pad and cut, or the inverse.
Whatever does not fit exactly is refused, and --drop-optimizer leaves it behind.
"""

import math
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
)

import torch
from torch import Tensor

from metaseq_plugin.checkpoint.state import OptimizerState
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.metaseq.flat import Flat, cut
from metaseq_plugin.formats.metaseq.names import split_projections
from metaseq_plugin.formats.metaseq.read import Part, Read, join
from metaseq_plugin.storage import torch_file
from metaseq_plugin.storage.lazy import Lazy, Tensors
from metaseq_plugin.storage.typed import check

MOMENTS = ("exp_avg", "exp_avg_sq")
KNOWN = {"state", "param_groups", "loss_scale"}
# Classes that do the same, by the name in metaseq's `optimizer_history` and in ours.
SAME_CLASS = {
    "MetaseqAdam": "FairseqAdamW",
    "VocabParallelCrossEntropyCriterion": "ChunkedCrossEntropyCriterion",
    "CrossEntropyCriterion": "ChunkedCrossEntropyCriterion",
}
TO_METASEQ = {
    "FairseqAdamW": "MetaseqAdam",
    "ChunkedCrossEntropyCriterion": "VocabParallelCrossEntropyCriterion",
}


class Optimizer(NamedTuple):
    """Adam's state of a whole model, by our names."""

    moments: Dict[str, Tensors]  # by MOMENTS
    step: float  # updates so far, the same for every parameter
    settings: Dict[str, Any]  # the one parameter group without its parameters
    loss_scale: Optional[float]
    history: Dict[str, Any]  # the last entry of optimizer_history


def refuse(source: str, reason: str) -> NoReturn:
    """Raise the error that an optimizer's state cannot be mapped."""
    raise UserError(
        f"The optimizer's state must be Adam's, one mean and one square for each element, but in {source} "
        f"{reason}. Set --drop-optimizer to leave it behind."
    )


def read_optimizer(read: Read) -> Optional[Optimizer]:
    """The optimizer's state of a checkpoint of metaseq's; None if it has none.

    Raises:
        UserError: anything in it that cannot be mapped exactly.
    """
    held: List[List[Dict[str, Any]]] = [
        [state.get("last_optimizer_state") or {} for state in part.states] for part in read.parts
    ]
    source = read.parts[0].source
    has_state = [bool(state.get("state")) for states in held for state in states]
    if not any(has_state):
        return None
    if not all(has_state):
        refuse(source, "only some files of the set hold it")
    first = held[0][0]
    _check_entries(held, source)
    settings = {name: value for name, value in first["param_groups"][0].items() if name != "params"}
    steps = {
        float(entry.get("step", settings.get("step", math.nan)))
        for states in held for state in states for entry in state["state"].values()
    }  # fmt: skip
    if len(steps) != 1 or math.isnan(max(steps)):
        refuse(source, "the number of updates is missing or differs between parameters")
    settings.pop("step", None)
    # Its own order: a state that was loaded once may list its entries in another.
    ordered = [
        [[s["state"][i] for i in s["param_groups"][0]["params"]] for s in states] for states in held
    ]
    moments = {name: _moments(read, ordered, name) for name in MOMENTS}
    history = _renamed(_last_history(read.parts[0].states[0]), SAME_CLASS)
    return Optimizer(moments, steps.pop(), settings, first.get("loss_scale"), history)


def _check_entries(held: Sequence[Sequence[Mapping[str, Any]]], source: str) -> None:
    for state in (state for states in held for state in states):
        check(dict(state), OptimizerState, "last_optimizer_state", source)
        unknown = sorted(map(str, state.keys() - KNOWN))
        if unknown:
            refuse(source, f"`{unknown[0]}` is unknown")
        if len(state.get("param_groups") or ()) != 1:
            refuse(source, f"there are {len(state.get('param_groups') or ())} parameter groups")
        if state["param_groups"][0].get("params", []) != sorted(state["state"]):
            refuse(
                source, f"its {len(state['state'])} tensors are not those of the parameter group"
            )
        entries = state["state"].values()
        if not all(map(_is_number, _steps([state["param_groups"][0], *entries]))):
            refuse(source, "`step` is no number")
        for entry in entries:
            strange = sorted(entry.keys() ^ {"step", *MOMENTS} - ({"step"} - entry.keys()))
            if strange:
                refuse(
                    source, f"`{strange[0]}` is {'unknown' if strange[0] in entry else 'missing'}"
                )
            for moment in MOMENTS:
                check(entry[moment], Tensor, f"last_optimizer_state.state.{moment}", source)


def _steps(held: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    return (entry["step"] for entry in held if "step" in entry)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _moments(read: Read, held: List[List[List[Dict[str, Any]]]], moment: str) -> Tensors:
    """One moment of every parameter of the whole model; ``held`` by part, shard and entry."""
    parts = [
        _moments_of_part(part, [[entry[moment] for entry in state] for state in states], read.named)
        for part, states in zip(read.parts, held, strict=True)
    ]
    split = [split_projections(t, part.source) for t, part in zip(parts, read.parts)]
    return join(split, {name: held.shape for name, held in read.tensors.twins.items()})


def _moments_of_part(part: Part, held: List[List[Tensor]], named: Tensors) -> Tensors:
    """One moment of a model part by metaseq's names.

    Args:
        held: by shard, in the optimizer's order.
        named: metaseq's names and shapes in the order of its model.
    """
    flats = part.flats[0] if part.flats else []
    is_flat = all(len(state) == len(flats) and all(t.dim() == 1 for t in state) for state in held)
    if flats and is_flat:
        found: Dict[str, Lazy] = {}
        for index in range(len(flats)):
            found |= _cut(part, index, [state[index] for state in held])
        return Tensors(found)
    shapes = [held.shape for held in named.twins.values()]
    if len(held) > 1 or [t.shape for t in held[0]] != shapes:
        refuse(
            part.source, f"its {len(held[0])} tensors are not those of the {len(shapes)} parameters"
        )
    return Tensors.of(dict(zip(named, held[0], strict=True)))


def _cut(part: Part, index: int, pieces: List[Tensor]) -> Dict[str, Lazy]:
    """The parameters' moments of flat parameter ``index``."""
    flat: Flat = part.flats[0][index]
    if part.is_flat:
        expected = [len(state["model"][flat.key]) for state in part.states]
        lengths = [n - flats[index].padding for n, flats in zip(expected, part.flats, strict=True)]
        is_mapped = [len(piece) for piece in pieces] == expected
    else:
        # Merged by Meta's reshard_fsdp, which leaves the last shards' padding where it was.
        lengths = [sum(flat.numels)]
        is_mapped = len(pieces[0]) >= lengths[0] and not pieces[0][lengths[0] :].any()
    if not is_mapped:
        refuse(part.source, f"`{flat.key}` is of another length than the parameter")
    return cut(flat, pieces, lengths)


def from_fairseq(
    state: Mapping[str, Any], shapes: Mapping[str, torch.Size], source: str
) -> Optional[Optimizer]:
    """Adam's state in a checkpoint that fairseq saved of a whole model.

    Args:
        state: the checkpoint.
        shapes: of the optimizer's parameters, in its order.
    """
    held = state.get("last_optimizer_state")
    if not held or not held.get("state"):
        return None
    _check_entries([[held]], source)
    group = held["param_groups"][0]
    entries = [held["state"][i] for i in group["params"]]
    if any([entry[m].shape for entry in entries] != list(shapes.values()) for m in MOMENTS):
        refuse(source, f"its {len(entries)} tensors are not those of the {len(shapes)} parameters")
    steps = {float(entry.get("step", math.nan)) for entry in entries}
    if len(steps) != 1:
        refuse(source, "the number of updates differs between parameters")
    moments = {
        moment: Tensors.of(dict(zip(shapes, (entry[moment] for entry in entries), strict=True)))
        for moment in MOMENTS
    }
    settings = {name: value for name, value in group.items() if name != "params"}
    return Optimizer(moments, steps.pop(), settings, held.get("loss_scale"), _last_history(state))


def to_fairseq(optimizer: Optimizer, names: Sequence[str]) -> Dict[str, Any]:
    """``last_optimizer_state`` of a whole model, its parameters in the order ``names``."""
    entries = {
        index: {
            "step": torch.tensor(optimizer.step, dtype=torch.float32),
            **{
                moment: torch_file.own_memory(optimizer.moments[moment][name]) for moment in MOMENTS
            },
        }
        for index, name in enumerate(names)
    }
    return _state(optimizer, entries)


def to_metaseq(
    optimizer: Optimizer, keys: Sequence[str], moment_of: Callable[[str, str], Tensor]
) -> Dict[str, Any]:
    """``last_optimizer_state`` of one file of metaseq's.

    Args:
        keys: of the parameters in the file, flat ones or others, in its order.
        moment_of: from the name of a moment and a key, its tensor.
    """
    entries = {
        index: {"step": int(optimizer.step), **{m: moment_of(m, key) for m in MOMENTS}}
        for index, key in enumerate(keys)
    }
    return _state(optimizer, entries)


def _state(optimizer: Optimizer, entries: Dict[int, Dict[str, Any]]) -> Dict[str, Any]:
    state: Dict[str, Any] = {
        "state": entries,
        "param_groups": [{**optimizer.settings, "params": list(entries)}],
    }
    if optimizer.loss_scale is not None:
        state["loss_scale"] = optimizer.loss_scale
    return state


def history_for_metaseq(optimizer: Optimizer) -> Dict[str, Any]:
    """The last entry of ``optimizer_history`` with metaseq's class names."""
    return _renamed(optimizer.history, TO_METASEQ)


def _last_history(state: Mapping[str, Any]) -> Dict[str, Any]:
    history = state.get("optimizer_history") or [{}]
    check(history, List[Dict[str, Any]], "optimizer_history", "The checkpoint")
    return dict(history[-1])


def _renamed(history: Mapping[str, Any], classes: Mapping[str, str]) -> Dict[str, Any]:
    named = {name: history.get(name) for name in ("criterion_name", "optimizer_name")}
    return {**history, **{name: classes.get(str(of), of) for name, of in named.items()}}
