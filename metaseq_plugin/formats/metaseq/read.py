"""Read a checkpoint of metaseq's, in any of its forms, as the tensors of one whole model.

The steps: (1) map the files that locate.py found; (2) of each model part, undo the flattening over its
shards (flat.py), drop what is known to be of no use (names.py) and split the fused projections; (3) hold
the names and shapes of each part against what the settings describe; (4) join the parts by the one table
of cuts (layout/cuts.py). Nothing is copied before a tensor is asked for.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor

from metaseq_plugin.checkpoint.state import check_dimensions_held
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.locate import Grid
from metaseq_plugin.formats.metaseq.flat import Flat, read_metadata, unflatten
from metaseq_plugin.formats.metaseq.names import (
    DROPPED,
    ENTRIES,
    FLAT,
    OUTPUT,
    VERSION,
    from_metaseq_settings,
    settings_of,
    split_projections,
)
from metaseq_plugin.formats.tensors import (
    EMBEDDING,
    check_tensors,
    check_tied,
    complete_config,
    expected_shapes,
)
from metaseq_plugin.layout.cuts import model_parallel_dim, model_part_piece
from metaseq_plugin.layout.fit import check_finite
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.storage import torch_file
from metaseq_plugin.storage.lazy import Lazy, Tensors, twin
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_MULTIPLE

logger = logging.getLogger(__name__)

# Copies of a tensor that every model part holds may differ by rounding, relative to its largest
# element; more means that the parts are of different checkpoints.
MOST_DIFFERENCE = 0.05


class Part(NamedTuple):
    """A model part as its shards' files hold it."""

    source: str  # its first file, for messages
    states: List[Dict[str, Any]]  # by shard
    flats: List[List[Flat]]  # by shard; empty where nothing says how the shards are laid out
    is_flat: bool


class Read(NamedTuple):
    """A checkpoint of metaseq's, whose optimizer is still to be looked at."""

    cfg: Any  # OPTConfig, complete
    tensors: Tensors  # by our names
    parts: List[Part]
    named: Tensors  # the first part's tensors by metaseq's names, in metaseq's order


def _read_part(paths: Sequence[Path], trust_pickle: bool) -> Part:
    """Map the files of a model part.

    Raises:
        UserError: an unreadable file, an entry that is not known, or shards without description.
    """
    states = []
    for path in paths:
        state = torch_file.read(path, trust_pickle)
        model = state.get("model") if isinstance(state, dict) else None
        if not isinstance(model, Mapping) or not all(isinstance(t, Tensor) for t in model.values()):
            raise UserError(
                f"The model must be a checkpoint whose entry model holds tensors, but {path} is not. "
                "Copy or write it again."
            )
        unknown = sorted(map(str, state.keys() - ENTRIES.keys()))
        if unknown:
            raise UserError(
                f"The model must hold only what metaseq writes, but {path} has the unknown entry "
                f"`{unknown[0]}`. Use a complete, unmodified checkpoint."
            )
        states.append(state)
    is_flat = any(FLAT in name for name in states[0]["model"])
    described = [state.get("shard_metadata") for state in states]
    if is_flat and None in described:
        raise UserError(
            f"The model must say how its flattened parameters are laid out, but {paths[described.index(None)]} "
            "has no `shard_metadata`. Use the file as it was saved, or one with whole tensors."
        )
    if len(paths) > 1 and not is_flat:
        raise UserError(
            f"The shards of a model must hold flattened parameters, but {paths[0]} holds whole tensors. "
            "Give that file alone."
        )
    flats = [read_metadata(held, str(path)) for held, path in zip(described, paths) if held]
    return Part(str(paths[0]), states, flats if None not in described else [], is_flat)


def read_metaseq(grid: Grid, trust_pickle: bool) -> Read:
    """The whole model of a set.

    Raises:
        UserError: damaged files, settings that OPT does not have, or other tensors than they describe.
    """
    parts = [_read_part(paths, trust_pickle) for paths in grid]
    raw = [_model_of(part) for part in parts]
    split = [split_projections(_drop(t, part.source), part.source) for t, part in zip(raw, parts)]
    held = settings_of(parts[0].states[0])
    settings = from_metaseq_settings(held, split[0].twins, parts[0].source)
    _check_number(len(parts), settings["decoder_ffn_embed_dim"], split[0], parts[0].source)
    check_dimensions_held(settings, _whole_shapes(split[0].twins, len(parts)), parts[0].source)
    vocab_size = len(split[0].twins[EMBEDDING]) * len(parts)
    cfg = complete_config(settings)
    if vocab_size % DICTIONARY_MULTIPLE:
        raise UserError(
            f"`{EMBEDDING}` must have a multiple of {DICTIONARY_MULTIPLE} rows, but in "
            f"{parts[0].source} has {vocab_size}. Use a complete, unmodified checkpoint."
        )
    shapes = expected_shapes(cfg, vocab_size)
    for rank, part in enumerate(parts):
        expected = {
            name: torch.Size(model_part_piece(name, shape, rank, len(parts)).size)
            for name, shape in shapes.items()
        }
        check_tensors(split[rank].twins, expected, part.source)
    kept = [name for name in raw[0] if name not in DROPPED]
    return Read(cfg, join(split, shapes), parts, raw[0].select(kept))


def _whole_shapes(part: Mapping[str, Tensor], num_parts: int) -> Dict[str, Sequence[int]]:
    """The shapes of the whole tensors of which ``part`` holds one of ``num_parts`` pieces."""
    whole: Dict[str, Sequence[int]] = {}
    for name, tensor in part.items():
        dim, shape = model_parallel_dim(name), list(tensor.shape)
        if dim is not None and dim < len(shape):
            shape[dim] *= num_parts
        whole[name] = shape
    return whole


def _model_of(part: Part) -> Tensors:
    """A model part's tensors by metaseq's names, every key of its files looked at."""
    models = [state["model"] for state in part.states]
    if not part.is_flat:
        return Tensors.of(models[0])
    found: Dict[str, Lazy] = {}
    described = {flat.key for flat in part.flats[0]}
    for model, flats in zip(models, part.flats, strict=True):
        missing = sorted(described - model.keys())
        unknown = sorted(model.keys() - described - DROPPED.keys())
        reasons = [f"`{name}` is missing" for name in missing]
        reasons += [f"`{name}` is unknown" for name in unknown]
        if [flat[:3] for flat in flats] != [flat[:3] for flat in part.flats[0]]:
            reasons.append("`shard_metadata` is another in each")
        if reasons:
            raise UserError(
                f"The model must hold exactly the parameters that its `shard_metadata` describes, but in the "
                f"shards of {part.source} {reasons[0]}. Give all the shards of one checkpoint."
            )
    for index, flat in enumerate(part.flats[0]):
        pieces = [model[flat.key] for model in models]
        found |= unflatten([flats[index] for flats in part.flats], pieces, part.source)
    if VERSION in models[0]:
        found[VERSION] = Lazy.of(models[0][VERSION])
    return Tensors(found)


def _drop(tensors: Tensors, source: str) -> Tensors:
    """Without what DROPPED lists; the second copy of the embedding must be one."""
    if OUTPUT in tensors and EMBEDDING in tensors:
        check_tied(OUTPUT, tensors[OUTPUT], tensors[EMBEDDING], source)
    return tensors.select([name for name in tensors if name not in DROPPED])


def _check_number(num_parts: int, ffn_dim: int, part: Tensors, source: str) -> None:
    """Refuse a set whose last model parts are missing, which its names cannot tell."""
    own_dim = len(part.twins.get("decoder.layers.0.fc1.bias", ()))
    if own_dim and ffn_dim % own_dim == 0 and ffn_dim // own_dim != num_parts:
        raise UserError(
            f"The model must hold all {ffn_dim // own_dim} model parts, of which {source} is one, but holds "
            f"{num_parts}. Copy the others beside it."
        )


def join(parts: Sequence[Tensors], shapes: Mapping[str, torch.Size]) -> Tensors:
    """Whole tensors of model parts, which have been checked to be the pieces of ``shapes``."""
    whole: Dict[str, Lazy] = {}
    for name, shape in shapes.items():
        pieces = [model_part_piece(name, shape, rank, len(parts)) for rank in range(len(parts))]
        dtypes = {part.twins[name].dtype for part in parts}
        if len(dtypes) > 1:
            raise UserError(
                f"`{name}` must have one data type in all model parts, but has "
                f"{' and '.join(sorted(map(str, dtypes)))}. Give all the parts of one checkpoint."
            )
        stand_in = twin(shape, dtypes.pop())
        if pieces[0].is_whole:
            whole[name] = Lazy(stand_in, partial(_same_in_all, parts, name))
        else:
            cut = partial(_joined, parts, name, pieces)
            whole[name] = Lazy(stand_in, partial(cut, Piece.whole(shape)), cut)
    return Tensors(whole)


def _joined(parts: Sequence[Tensors], name: str, pieces: Sequence[Piece], wanted: Piece) -> Tensor:
    """``wanted`` of a tensor of which the parts hold ``pieces``; parts that hold nothing of it are not read."""
    found = torch.empty(wanted.size, dtype=parts[0].twins[name].dtype)
    for part, piece in zip(parts, pieces, strict=True):
        overlap = piece.overlap(wanted)
        if overlap is not None:
            block = part[name][overlap.slices_within(piece)]
            found[overlap.slices_within(wanted)] = block
    return found


def _same_in_all(parts: Sequence[Tensors], name: str) -> Tensor:
    first = parts[0][name]
    for rank, part in enumerate(parts[1:], start=1):
        other = part[name]
        if torch.equal(first, other):
            continue
        check_finite({name: first})  # NaN equals nothing
        check_finite({name: other})
        difference = float((first.double() - other.double()).abs().max())
        largest = float(first.double().abs().max())
        if not difference <= MOST_DIFFERENCE * largest:
            raise UserError(
                f"`{name}` must be the same in all model parts, but part {rank} differs from part 0 "
                f"by {difference:.3g}. Give all the parts of one checkpoint."
            )
        logger.warning(
            f"`{name}` of model part {rank} differs from part 0's by {difference:.3g}; part 0's is taken"
        )
    return first
