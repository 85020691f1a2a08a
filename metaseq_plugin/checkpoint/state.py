"""The one typed reading of a checkpoint that fairseq saved, or of one file of a set.

    state = read_state(Path("runs/a/checkpoint_last.pt"))

Whoever reads on may rely on the types that ``State`` and ``LayoutEntry`` declare, on settings of their dataclass's
types (``compat/checkpoint_settings.py``), and on dimensions that the tensors of the file have: a model of 10⁹
layers is refused before it is built. Tensors stay where they are, mapped.
"""

import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, TypedDict, Union

from torch import Tensor

from metaseq_plugin.checkpoint.meters import check_meters
from metaseq_plugin.compat.checkpoint_errors import unreadable
from metaseq_plugin.compat.checkpoint_settings import check_harmless, model_name, plain, typed
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.sizes import DIMENSIONS, dimensions_of, is_opt
from metaseq_plugin.storage import torch_file
from metaseq_plugin.storage.typed import AGAIN, Fault, check, described

LAST_EPOCH = 2**31  # a seed of NumPy is made of it
LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.")


class Box(TypedDict):
    """``layout/piece.py:Piece``."""

    shape: List[int]
    start: List[int]
    size: List[int]


class LayoutEntry(TypedDict):
    """What a file of a set says of itself (``checkpoint/set_file.py:layout_entry``)."""

    version: int
    model_parallel: "tuple[int, int]"  # which part, of how many
    shard: "tuple[int, int]"
    data_parallel_size: int
    pieces: Dict[str, Box]
    optimizer_params: Optional[List[str]]


class Place(TypedDict, total=False):
    """``extra_state["train_iterator"]``; what a task of ours adds, its iterator reads."""

    version: int
    epoch: int
    iterations_in_epoch: int
    shuffle: bool
    streaming: Dict[str, Any]
    blocks: Dict[str, Any]


class _Extra(TypedDict):
    train_iterator: Optional[Place]


class Extra(_Extra, total=False):
    """``extra_state``."""

    val_loss: Optional[float]
    best: Optional[float]
    previous_training_time: Union[float, Tensor]  # seconds; several ranks save a tensor of them
    metrics: Dict[str, List["tuple[int, str, str, Dict[str, Any]]"]]  # a meter each
    rng_tracker_states: Any


class Past(TypedDict, total=False):
    """An entry of ``optimizer_history``."""

    criterion_name: str
    optimizer_name: str
    lr_scheduler_state: Dict[str, Any]
    num_updates: int


class _Group(TypedDict, total=False):
    params: List[int]


class OptimizerState(TypedDict, total=False):
    """``last_optimizer_state``: by number of the parameter, its moments and the like."""

    state: Dict[int, Dict[str, Union[Tensor, float, None]]]
    param_groups: List[_Group]
    master_weights: List[Tensor]
    loss_scale: float


class Settings(TypedDict, total=False):
    """Of the run, in groups; before fairseq 0.10, all together at ``args``."""

    cfg: Optional[Dict[str, Any]]
    args: Optional[Dict[str, Any]]


class Resumable(TypedDict):
    """What a run that goes on asks for."""

    optimizer_history: List[Past]
    extra_state: Extra


class State(TypedDict, total=False):
    """What is asked of a file, whatever it lacks; who needs a key says so."""

    model: Dict[str, Tensor]
    optimizer_history: List[Past]
    extra_state: Extra
    last_optimizer_state: Optional[OptimizerState]
    layout: Optional[LayoutEntry]
    task_state: Optional[Dict[str, Any]]
    criterion: Optional[Dict[str, Any]]
    data_from_run: Optional[str]


def read_state(path: Path) -> Dict[str, Any]:
    """The state in one file, its settings as plain containers.

    Raises:
        UserError: no whole checkpoint, or one that holds something else than is declared above.
    """
    return checked(torch_file.read(path), path)


def checked(state: Any, source: Path) -> Dict[str, Any]:
    """``state``, which ``torch_file.read`` gave, its settings as plain containers.

    Raises:
        UserError: as ``read_state``.
    """
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise unreadable(source, KeyError("model"))
    check(state, State, "the checkpoint", source)
    seconds = state.get("extra_state", {}).get("previous_training_time")
    if isinstance(seconds, Tensor) and seconds.numel() != 1:
        raise UserError(
            Fault("extra_state.previous_training_time", "a number", seconds).sentence(source)
        )
    _check_layout(state, source)
    return with_settings(state, source)


def check_resumable(state: Mapping[str, Any], source: Any) -> None:
    """Refuse a ``state``, which ``read_state`` gave, that lacks what a run goes on from."""
    check(state, Resumable, "the checkpoint", source)
    check_meters(state["extra_state"].get("metrics", {}), source)
    history, place = state["optimizer_history"], state["extra_state"]["train_iterator"]
    if history:
        check(history[-1].get("num_updates"), int, "optimizer_history[-1].num_updates", source)
    elif state.get("last_optimizer_state") is not None:
        raise UserError(Fault("optimizer_history", "an entry", history).sentence(source))
    if place is not None and not 0 <= place.get("epoch", -1) <= LAST_EPOCH:
        fault = Fault(
            "extra_state.train_iterator.epoch", f"a number to {LAST_EPOCH:,}", place.get("epoch")
        )
        raise UserError(fault.sentence(source))


def with_settings(state: Mapping[str, Any], source: Path) -> Dict[str, Any]:
    """``state``, whatever it is of, its settings as plain containers and harmless; of an OPT typed, too.

    Raises:
        UserError: naming a setting that no checkpoint holds.
    """
    plainly = {name: plain(state[name]) for name in ("cfg", "args") if name in state}
    check(plainly, Settings, "the checkpoint", source)
    check_harmless(plainly, source)
    if not is_opt(model_name(plainly)):
        return {**state, **plainly}
    if plainly.get("args"):
        raise UserError(
            f"{source} must hold the settings of an OPT at `cfg`, but holds some at `args` too. {AGAIN}"
        )
    cfg = typed(plainly.get("cfg"), source)
    check_dimensions_held(cfg["model"], shapes_in(state), source)
    return {**state, "cfg": cfg}


def shapes_in(state: Mapping[str, Any]) -> Dict[str, Sequence[int]]:
    """The shape of every full tensor of which ``state``, one file of a set perhaps, holds a piece."""
    layout, model = state.get("layout"), state.get("model")
    if isinstance(layout, dict):
        return {name: box["shape"] for name, box in layout["pieces"].items()}
    return {name: t.shape for name, t in (model or {}).items() if isinstance(t, Tensor)}


def check_dimensions_held(
    settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], source: Any
) -> None:
    """Refuse settings of a model that is larger than the tensors at hand, before it is built.

    Args:
        settings: of the model, their types checked.
        shapes: of whole tensors by our names; what is missing is not compared.

    Raises:
        UserError: naming the dimension.
    """
    dimensions = dimensions_of(settings)
    for name in DIMENSIONS:
        value = dimensions[name]
        if value is not None and value < 1 and not isinstance(value, bool):
            raise UserError(
                f"{source} must hold a number of at least 1 at `{name}`, but holds {value}. {AGAIN}"
            )
    layers = {match[1] for name in shapes if (match := LAYER.match(name))}
    held = {"decoder_layers": len(layers)}
    for dimension, tensor, dim, other in (
        ("decoder_embed_dim", "decoder.embed_positions.weight", 1, 0),
        ("decoder_max_positions", "decoder.embed_positions.weight", 0, 2),
        ("decoder_word_embed_dim", "decoder.embed_tokens.weight", 1, 0),
        ("decoder_ffn_embed_dim", "decoder.layers.0.fc1.weight", 0, 0),
    ):
        if len(shapes.get(tensor, ())) == 2:
            held[dimension] = shapes[tensor][dim] - other
    for name, size in held.items():
        value = dimensions[name] or dimensions["decoder_embed_dim"]
        if value != size:
            raise UserError(
                f"{source} must hold the model that its settings describe, but they say {value} at `{name}` and "
                f"its tensors {size}. Use a complete, unmodified checkpoint."
            )


def _check_layout(state: Mapping[str, Any], source: Path) -> None:
    """Refuse a ``layout`` that is none, or not of the tensors beside it."""
    layout = state.get("layout")
    if layout is None:
        return
    model, pieces = state["model"], layout["pieces"]
    if model.keys() != pieces.keys():
        strangers = sorted(model.keys() ^ pieces.keys())
        raise _of_other(source, f"`{strangers[0]}` is in one of both only")
    for name, box in pieces.items():
        ends = [a + n for a, n in zip(box["start"], box["size"])]
        is_inside = len({len(side) for side in box.values()}) == 1 and all(
            end <= full for end, full in zip(ends, box["shape"], strict=True)
        )
        if not is_inside or list(model[name].shape) != list(box["size"]):
            raise _of_other(source, f"`{name}` is {described(model[name])}")
    for axis in ("model_parallel", "shard"):
        if layout[axis][0] >= layout[axis][1]:
            raise _of_other(
                source, f"it is number {layout[axis][0]} of {layout[axis][1]} at `{axis}`"
            )
    params = layout["optimizer_params"] or []
    if layout["data_parallel_size"] < 1 or not set(params) <= pieces.keys():
        raise _of_other(source, "its ranks or the optimizer's parameters are others")


def _of_other(source: Path, reason: str) -> UserError:
    return UserError(
        f"{source} must hold the tensors that its `layout` describes, but {reason}. {AGAIN}"
    )
