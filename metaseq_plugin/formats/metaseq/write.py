"""Write a model in metaseq's form, one file for each model part and shard.

    reshard.pt                                      one part, one shard: whole tensors
    reshard-model_part-0.pt …                       several parts: each one's block of the tensors
    reshard-model_part-0-shard0.pt …                several shards: flattened, with shard_metadata

The entries are those that metaseq's trainer looks up and Hugging Face's conversion script reads. Only
what goes into one file is in memory.
"""

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from metaseq_plugin.checkpoint.manifest import FileName
from metaseq_plugin.formats.fairseq import build_state
from metaseq_plugin.formats.metaseq.flat import plan, shard_of, write_metadata
from metaseq_plugin.formats.metaseq.names import (
    VERSION,
    fuse_projections,
    to_metaseq_settings,
)
from metaseq_plugin.formats.metaseq.optimizer import (
    Optimizer,
    history_for_metaseq,
    to_metaseq,
)
from metaseq_plugin.layout.cuts import model_part_piece
from metaseq_plugin.layout.layout import FULLY_SHARDED, Layout
from metaseq_plugin.storage import torch_file
from metaseq_plugin.storage.lazy import Tensors
from metaseq_plugin.tokenizers.files import METASEQ_MERGES, METASEQ_VOCAB

STEM = "reshard"
FORMAT_VERSION = 3.0


def write_metaseq(
    folder: Path, tensors: Tensors, cfg: Any, layout: Layout, optimizer: Optional[Optimizer]
) -> List[str]:
    """Write the files into ``folder``; their names.

    Args:
        tensors: whole, by our names, in our model's order.
        cfg: our complete settings.
    """
    held = {"": tensors, **(optimizer.moments if optimizer else {})}
    files = []
    for part in range(layout.model_parallel_size):
        cut = {what: fuse_projections(_part_of(t, part, layout)) for what, t in held.items()}
        for shard in range(layout.num_shards):
            name = FileName(
                STEM,
                # What there is only one of has no suffix.
                part if layout.num_ranks > 1 else None,
                shard if layout.num_shards > 1 else None,
            )
            torch_file.write(folder / str(name), _state(cut, cfg, layout, shard, optimizer))
            files.append(str(name))
    return files


def _part_of(tensors: Tensors, part: int, layout: Layout) -> Tensors:
    pieces = {
        name: model_part_piece(name, held.shape, part, layout.model_parallel_size)
        for name, held in tensors.twins.items()
    }
    return Tensors({name: tensors.part(name, piece.slices) for name, piece in pieces.items()})


class Held(NamedTuple):
    """What one file holds of the model."""

    model: Dict[str, Tensor]
    moment_of: Callable[[str, str], Tensor]  # from a moment's name and a key of ``model``
    metadata: Optional[Dict[str, Any]]  # how it is flattened


def _whole(part: Mapping[str, Tensors]) -> Held:
    """A model part in one file; ``part`` has the weights under "" and the moments by their names."""
    model = {name: torch_file.own_memory(tensor) for name, tensor in part[""].items()}
    return Held(model, lambda moment, name: torch_file.own_memory(part[moment][name]), None)


def _flattened(part: Mapping[str, Tensors], shard: int, num_shards: int) -> Held:
    """One shard of a model part."""
    flats = {flat.key: flat for flat in plan(part[""])}
    cut = {key: shard_of(flat, part[""], shard, num_shards) for key, flat in flats.items()}
    return Held(
        {key: piece for key, (piece, _) in cut.items()},
        lambda moment, key: shard_of(flats[key], part[moment], shard, num_shards)[0],
        write_metadata(list(flats.values()), [padding for _, padding in cut.values()]),
    )


def _state(
    part: Mapping[str, Tensors],
    cfg: Any,
    layout: Layout,
    shard: int,
    optimizer: Optional[Optimizer],
) -> Dict[str, Any]:
    """All entries of one file."""
    dtype = next(iter(part[""].twins.values())).dtype
    held = _whole(part) if layout.num_shards == 1 else _flattened(part, shard, layout.num_shards)
    version = {VERSION: torch.tensor([FORMAT_VERSION], dtype=dtype)}
    state = build_state({**held.model, **version}, _metaseq_cfg(cfg, layout, dtype))
    del state["args"]
    if held.metadata is not None:
        state["shard_metadata"] = held.metadata
    if optimizer is None:
        del state["last_optimizer_state"]
    else:
        state["last_optimizer_state"] = to_metaseq(optimizer, list(held.model), held.moment_of)
        state["optimizer_history"] = [history_for_metaseq(optimizer)]
    return state


def _metaseq_cfg(cfg: Any, layout: Layout, dtype: torch.dtype) -> Dict[str, Any]:
    """The settings that metaseq reads from a file: of the model, the task, and how it is cut."""
    is_half = dtype != torch.float32
    return {
        "_name": None,
        "common": {
            "fp16": is_half,
            "bf16": dtype == torch.bfloat16,
            "memory_efficient_fp16": is_half,
            "model_parallel_size": layout.model_parallel_size,
        },
        "distributed_training": {
            "ddp_backend": FULLY_SHARDED,
            "use_sharded_state": True,
            "distributed_world_size": layout.num_ranks,
        },
        "task": {
            "_name": "streaming_language_modeling",
            "vocab_filename": METASEQ_VOCAB,
            "merges_filename": METASEQ_MERGES,
            "end_of_document_symbol": "</s>",
            "tokens_per_sample": cfg.decoder_max_positions,
            "max_target_positions": cfg.decoder_max_positions,
        },
        "model": to_metaseq_settings(cfg, layout.model_parallel_size),
    }
