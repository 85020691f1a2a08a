"""Checkpoint sets of a tiny OPT in any layout, cut by hand, and ranks that are threads."""

import threading
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.checkpoint.commit import Save, commit
from metaseq_plugin.checkpoint.manifest import FileName, SetName
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import layout_entry
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import Ranks
from metaseq_plugin.layout.piece import Piece
from tests.opt_models import TINY, decoder

VOCAB_SIZE = 56
SHAPE = {**TINY, "decoder_layers": 2, "decoder_ffn_embed_dim": 72}
# (model parts, shards). 32 rows in 5 shards are 7, 7, 7, 7, 4; one vector of 32 in 33 leaves ranks bare.
LAYOUTS = [(1, 1), (1, 2), (1, 4), (2, 1), (4, 1), (2, 2), (1, 5), (2, 33)]

# Written out here once more, so that a mistake in the table of the package is seen.
CUT_ALONG_0 = ("q_proj", "k_proj", "v_proj", "fc1", "embed_tokens")
CUT_ALONG_1 = ("out_proj.weight", "fc2.weight")


def cut(name: str, tensor: Tensor, part: int, parts: int, shard: int, shards: int) -> Tensor:
    """What one file holds of ``tensor``."""
    if any(f"{word}." in name for word in CUT_ALONG_0):
        tensor = tensor.chunk(parts, 0)[part]
    elif name.endswith(CUT_ALONG_1):
        tensor = tensor.chunk(parts, 1)[part]
    if shards > 1:
        blocks = tensor.chunk(shards, 0)
        tensor = blocks[shard] if shard < len(blocks) else tensor[:0]
    return tensor


def piece(name: str, shape: Sequence[int], *where: int) -> Piece:
    """The box of ``cut`` in the full tensor, found by cutting a tensor of positions."""
    positions = torch.arange(torch.Size(shape).numel()).view(*shape)
    held = cut(name, positions, *where)
    if held.numel() == 0:
        return Piece(tuple(shape), (0,) * len(shape), tuple(held.shape))
    first = torch.unravel_index(held.flatten()[0], tuple(shape))
    return Piece(tuple(shape), tuple(int(i) for i in first), tuple(held.shape))


def whole_state(seed: int = 0, updates: int = 7, masters: bool = False) -> dict[str, Any]:
    """A fairseq state of one process; every number in it is random."""
    random = torch.Generator().manual_seed(seed)
    names = {
        f"decoder.{name}": tensor.shape
        for name, tensor in decoder(VOCAB_SIZE, **SHAPE).state_dict().items()
    }

    def noise() -> list[Tensor]:
        return [torch.randn(shape, generator=random) for shape in names.values()]

    weights = noise()
    optimizer: dict[str, Any] = {
        "state": {
            i: {"step": torch.tensor(float(updates)), "exp_avg": mean, "exp_avg_sq": square}
            for i, (mean, square) in enumerate(zip(noise(), noise()))
        },
        "param_groups": [{"lr": 0.1, "params": list(range(len(names)))}],
        "loss_scale": 64.0,
    }
    if masters:
        optimizer["master_weights"] = weights
        weights = [weight.half().float() for weight in weights]
    return {
        "args": None,
        "cfg": {
            "model": {"_name": "opt", **SHAPE},
            "optimizer": {"_name": "adamw"},
            "distributed_training": {"distributed_world_size": 1},
        },
        "model": dict(zip(names, weights)),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "ChunkedCrossEntropyCriterion",
                "optimizer_name": "FairseqAdamW",
                "lr_scheduler_state": {"best": None},
                "num_updates": updates,
            }
        ],
        "task_state": {},
        "extra_state": {
            "train_iterator": {
                "version": 2,
                "epoch": 1,
                "iterations_in_epoch": updates,
                "shuffle": True,
            },
            "val_loss": None,
        },
        "last_optimizer_state": optimizer,
    }


def cut_state(whole: dict[str, Any], *where: int, data_parallel_size: int = 1) -> dict[str, Any]:
    """The file of (part, parts, shard, shards) of ``whole``."""
    part, parts, shard, shards = where
    names = list(whole["model"])
    saved = whole["last_optimizer_state"]
    optimizer = {
        **saved,
        "state": {
            i: {
                key: value if value.dim() == 0 else cut(names[i], value, *where)
                for key, value in entry.items()
            }
            for i, entry in saved["state"].items()
        },
    }
    if "master_weights" in saved:
        optimizer["master_weights"] = [
            cut(name, master, *where) for name, master in zip(names, saved["master_weights"])
        ]
    layout = Layout(parts, shards, data_parallel_size)
    pieces = {name: piece(name, tensor.shape, *where) for name, tensor in whole["model"].items()}
    return {
        **whole,
        "model": {name: cut(name, tensor, *where) for name, tensor in whole["model"].items()},
        "last_optimizer_state": optimizer,
        "layout": layout_entry(layout, part, shard, pieces, names),
    }


class ThreadRanks(Ranks):
    """A rank of ``run_ranks``."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, values: List[Any]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._values = barrier, values

    def all_gather(self, value: Any) -> List[Any]:
        self._values[self.rank] = value
        self.barrier()
        gathered = list(self._values)
        self.barrier()
        return gathered

    def barrier(self) -> None:
        self._barrier.wait(timeout=60)


def run_ranks(size: int, function: Callable[[ThreadRanks], Any]) -> List[Any]:
    """What ``function`` returns, or the exception it raises, on each of ``size`` ranks."""
    barrier, values = threading.Barrier(size), [None] * size
    results: List[Any] = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadRanks(rank, size, barrier, values))
        except Exception as error:  # noqa: BLE001  handed to the test
            results[rank] = error
            if isinstance(error, threading.BrokenBarrierError):
                return

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Place(NamedTuple):
    """Where and as what a test saves."""

    folder: Path
    stems: Sequence[str] = ("checkpoint_last",)
    saved_at: float = 1000.0


def save_set(
    place: Place,
    whole: dict[str, Any],
    parts: int = 1,
    shards: int = 1,
    data_parallel_size: Optional[int] = None,
) -> SetName:
    """Write ``whole`` as a set of parts × shards files, one rank each."""
    layout = Layout(parts, shards, data_parallel_size or shards)
    updates = whole["optimizer_history"][-1]["num_updates"]
    save = Save(place.folder, place.stems, updates, 1, place.saved_at, layout)

    def of_rank(ranks: ThreadRanks) -> None:
        shard, part = divmod(ranks.rank, parts)
        name = FileName(place.stems[0], part if parts > 1 else None, shard if shards > 1 else None)
        where = (part, parts, shard, shards)
        state = cut_state(whole, *where, data_parallel_size=layout.data_parallel_size)
        commit(save, [(name, state)], ranks)

    for result in run_ranks(parts * shards, of_rank):
        if result is not None:
            raise result
    return SetName(place.folder, place.stems[0])


def opened(name: SetName) -> CheckpointSet:
    return CheckpointSet.open(name.manifest_path)
