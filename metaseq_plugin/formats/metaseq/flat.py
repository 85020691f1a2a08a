"""Flattened parameters: how fairscale's FSDP, and so metaseq, lays a model out over its shards.

A wrapped module's parameters are laid end to end in one flat tensor, which is cut into equal lengths,
the tail of the last ones padded so that all are equally long:

    decoder.layers.0: |qkv_proj.weight|qkv_proj.bias|out_proj.weight| … |final_layer_norm.bias|
    3 shards:         |······· shard 0 ·······|······· shard 1 ·······|······· shard 2 ···| pad |

The file of a shard has ``decoder.layers.0.flat_param_0`` and ``flat_param_0`` of what is outside the
layers, and a description in ``shard_metadata`` (fairscale's ``local_metadata_dict``):

    {"param_metadata": [{"fsdp_path": "decoder.layers.0", "params": {"flat_param_0": {
        "names": […], "shapes": […], "numels": […], "padding": 7}}, …}, …], "buffer_names": […]}

The optimizer knows only the flat tensors: its state 0, 1, … is of the entries in their order here.
"""

import math
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, TypedDict

import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.metaseq.names import OUTPUT, VERSION
from metaseq_plugin.formats.tensors import EMBEDDING
from metaseq_plugin.storage.lazy import Lazy, Tensors, twin
from metaseq_plugin.storage.typed import described, fault_of

# Modules of fairscale and torch that wrap others and stand between the words of a name.
WRAPPERS = {"_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"}
LAYER_WORDS = 3  # decoder.layers.0


class _Held(TypedDict):
    names: List[str]
    shapes: List[Any]  # of whole numbers
    numels: List[int]
    padding: int


class _Wrapped(TypedDict):
    fsdp_path: str
    params: Dict[str, _Held]


class Metadata(TypedDict):
    """``shard_metadata``: what is asked of it."""

    param_metadata: List[_Wrapped]


class Flat(NamedTuple):
    """A flat parameter as one shard describes it."""

    key: str  # its name in the file
    names: List[str]  # the parameters in it, in order
    shapes: List[Tuple[int, ...]]
    padding: int  # elements at the end of this shard's piece that belong to nothing

    @property
    def numels(self) -> List[int]:
        """Elements of each parameter in it, over all shards."""
        return [math.prod(shape) for shape in self.shapes]


def read_metadata(metadata: Any, source: str) -> List[Flat]:
    """The flat parameters that ``shard_metadata`` describes, in its order.

    Raises:
        UserError: it is not what fairscale writes, or describes parameters that shards do not share.
    """
    fault = fault_of(metadata, Metadata, "shard_metadata")
    if fault is not None:
        raise _not_described(source, f"`{fault.where}` is {described(fault.value)}")
    try:
        flats = [
            Flat(
                _joined(wrapped["fsdp_path"], key),
                [_joined(wrapped["fsdp_path"], name) for name in held["names"]],
                [tuple(shape) for shape in held["shapes"]],
                held["padding"],
            )
            for wrapped in metadata["param_metadata"]
            for key, held in wrapped["params"].items()
        ]
        own = [
            w["fsdp_path"] for w in metadata["param_metadata"] if w.get("no_broadcast_optim_state")
        ]
        numels = [
            n for w in metadata["param_metadata"] for h in w["params"].values() for n in h["numels"]
        ]
    except (TypeError, ValueError) as error:
        raise _not_described(source, repr(error)) from error
    sizes = [size for flat in flats for shape in flat.shapes for size in shape]
    if fault_of(sizes, List[int], "shapes") or any(len(f.names) != len(f.shapes) for f in flats):
        raise _not_described(source, "its `shapes` are none, or not as many as its `names`")
    if own or numels != [n for flat in flats for n in flat.numels]:
        reason = f"`{own[0]}` is each rank's own" if own else "`numels` and `shapes` differ"
        raise UserError(
            f"`shard_metadata` must describe an OPT, whose shards share every parameter, but in {source} "
            f"{reason}. Use a complete, unmodified checkpoint."
        )
    return flats


def _not_described(source: str, reason: str) -> UserError:
    return UserError(
        f"`shard_metadata` must describe the flattened parameters as fairscale does, but in "
        f"{source} does not ({reason}). Copy the file again."
    )


def _joined(path: str, name: str) -> str:
    words = [*path.split("."), *name.split(".")]
    return ".".join(word for word in words if word and word not in WRAPPERS)


def unflatten(flats: Sequence[Flat], shards: Sequence[Tensor], source: str) -> Dict[str, Lazy]:
    """The parameters of one flat parameter.

    Args:
        flats: its description by each shard.
        shards: its piece in each shard.

    Raises:
        UserError: the shards do not make up the whole.
    """
    flat = flats[0]
    if any(shard.dim() != 1 or shard.dtype != shards[0].dtype for shard in shards):
        raise UserError(
            f"`{flat.key}` must be flat and of one data type in all shards, but in {source} is not. "
            "Give all the shards of one checkpoint."
        )
    lengths = [len(shard) - own.padding for shard, own in zip(shards, flats, strict=True)]
    numel = sum(flat.numels)
    if sum(lengths) != numel or min(lengths) < 0:
        raise UserError(
            f"`{flat.key}` must have {numel:,} elements in all shards together, but in {source} has "
            f"{sum(lengths):,}. Give all the shards of one checkpoint."
        )
    return cut(flat, shards, lengths)


def cut(flat: Flat, holders: Sequence[Tensor], lengths: Sequence[int]) -> Dict[str, Lazy]:
    """The parameters of ``flat``, whose elements lie in the first ``lengths`` of ``holders``."""
    parameters: Dict[str, Lazy] = {}
    start = 0
    for name, shape in zip(flat.names, flat.shapes, strict=True):
        make = partial(_parameter, holders, lengths, start, shape)
        parameters[name] = Lazy(twin(shape, holders[0].dtype), make)
        start += math.prod(shape)
    return parameters


def _parameter(
    holders: Sequence[Tensor], lengths: Sequence[int], start: int, shape: Tuple[int, ...]
) -> Tensor:
    """What begins at element ``start``; a view where one holder has it all, so that it stays mapped."""
    found = [
        holders[index][own] for index, own, _ in _overlaps(lengths, start, start + math.prod(shape))
    ] or [holders[0][:0]]
    return (found[0] if len(found) == 1 else torch.cat(found)).view(shape)


def _overlaps(lengths: Sequence[int], start: int, end: int) -> Iterator[Tuple[int, slice, slice]]:
    """Where elements ``start`` to ``end`` of tensors laid end to end are.

    Yields:
        which tensor, a stretch of it, and the same stretch counted from ``start``.
    """
    offset = 0
    for index, length in enumerate(lengths):
        first, last = max(start, offset), min(end, offset + length)
        if first < last:
            yield index, slice(first - offset, last - offset), slice(first - start, last - start)
        offset += length


def plan(tensors: Tensors) -> List[Flat]:
    """The flat parameters of a model part as metaseq wraps it: the root, then each layer."""
    groups: Dict[str, List[str]] = {"": []}
    for name in tensors:
        is_inside = name.startswith("decoder.layers.")
        path = ".".join(name.split(".")[:LAYER_WORDS]) if is_inside else ""
        groups.setdefault(path, []).append(name)
    return [
        Flat(
            _joined(path, "flat_param_0"), names, [tuple(tensors.twins[n].shape) for n in names], 0
        )
        for path, names in groups.items()
    ]


def shard_of(flat: Flat, tensors: Tensors, rank: int, num_shards: int) -> Tuple[Tensor, int]:
    """Shard ``rank``'s piece of a flat parameter, and how many elements of it are padding.

    Only this piece and one parameter at a time are in memory.
    """
    numel = sum(flat.numels)
    length = -(-numel // num_shards)
    first = min(rank * length, numel)
    last = min(first + length, numel)
    piece = torch.zeros(length, dtype=tensors.twins[flat.names[0]].dtype)
    for index, own, place in _overlaps(flat.numels, first, last):
        piece[place] = tensors[flat.names[index]].flatten()[own]
    return piece, length - (last - first)


def write_metadata(flats: Sequence[Flat], paddings: Sequence[int]) -> Dict[str, Any]:
    """``shard_metadata`` of the shard that has ``paddings``."""
    entries = []
    for flat, padding in zip(flats, paddings, strict=True):
        path, _, key = flat.key.rpartition(".")
        held = {
            "names": [name.removeprefix(f"{path}.") if path else name for name in flat.names],
            "shapes": [torch.Size(shape) for shape in flat.shapes],
            "numels": flat.numels,
            "padding": padding,
        }
        # metaseq's output projection is the embedding under a second name.
        shared = [(EMBEDDING, OUTPUT)] if EMBEDDING in flat.names else []
        entries.append(
            {
                "fsdp_path": path,
                "params": {key: held},
                "no_broadcast_optim_state": False,
                "shared_param_info": shared,
            }
        )
    return {"param_metadata": entries, "buffer_names": [VERSION]}
