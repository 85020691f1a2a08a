"""Write a checkpoint anew in another layout.

    metaseq reshard runs/a/checkpoint_last.pt runs/b/checkpoint_last.pt --model-parallel-size 2 --num-shards 4

Training needs no such step, it resumes from any layout by itself; this is for moving files, and for
other programs. SRC is any path of a checkpoint, DST a name ending in .pt or a folder. The optimizer's
state is cut with the weights, unless --no-optimizer leaves it out. One output file at a time is held
in memory, and DST appears as a whole set with its manifest or not at all.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from metaseq_plugin.checkpoint.commit import Save, commit
from metaseq_plugin.checkpoint.manifest import FileName, SetName, set_name
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import layout_entry
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.checkpoint.state import check_resumable
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.cuts import model_parallel_dim, model_part_piece, shard_piece
from metaseq_plugin.layout.layout import Layout, check_divides
from metaseq_plugin.layout.peers import ALONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", type=Path, help="any path of a checkpoint")
    parser.add_argument("dst", metavar="DST", type=Path, help="checkpoint to write, or its folder")
    parser.add_argument(
        "--model-parallel-size", metavar="N", type=int, default=1, help="model parts; default: 1"
    )
    parser.add_argument(
        "--num-shards", metavar="M", type=int, default=1, help="shards of a model part; default: 1"
    )
    parser.add_argument(
        "--no-optimizer", action="store_true", help="leave out the optimizer's state"
    )


def run(args: argparse.Namespace) -> None:
    """Reshard as asked and say what was written."""
    lines = reshard(
        args.src, args.dst, args.model_parallel_size, args.num_shards, not args.no_optimizer
    )
    print("\n".join(lines))  # noqa: T201


def reshard(
    src: Path, dst: Path, model_parallel_size: int, num_shards: int, with_optimizer: bool = True
) -> Tuple[str, str]:
    """Write the set at ``src`` to ``dst``, cut anew; what was done, in lines for people."""
    Layout(model_parallel_size, num_shards).check()
    source = set_name(src)
    if not source.exists:
        raise UserError(f"SRC must be a checkpoint, but {src} does not exist. Check the path.")
    is_name = dst.suffix == ".pt"
    target = set_name(dst) if is_name else SetName(dst, source.stem)
    if target.exists or (not is_name and dst.is_file()):
        raise UserError(f"DST must not exist yet, but {target} does. Set another, or delete it.")
    saved = CheckpointSet.open(src)
    check_divides(model_parallel_size, what_is_cut(saved))
    old = saved.layout
    # The data position goes on counting over the ranks that trained.
    layout = Layout(model_parallel_size, num_shards, old.data_parallel_size)
    check_resumable(saved.first.state, source)
    history, place = (saved.first.state[key] for key in ("optimizer_history", "extra_state"))
    save = Save(
        target.folder,
        [target.stem],
        num_updates=history[-1]["num_updates"] if history else 0,
        epoch=(place["train_iterator"] or {"epoch": 1})["epoch"],
        saved_at=saved.saved_at,
        layout=layout,
    )
    commit(save, output_files(saved, target.stem, layout, with_optimizer), ALONE)
    return (
        f"read   {source}: {describe(old)}",
        f"wrote  {target}: {describe(layout)}{'' if with_optimizer else ', no optimizer state'}",
    )


def what_is_cut(saved: CheckpointSet) -> Dict[str, int]:
    """What model parts share out, in words -> how much of it there is."""
    heads = saved.first.settings("model").get("decoder_attention_heads")
    cut = {} if not isinstance(heads, int) else {"the heads": heads}
    for name, piece in saved.pieces.items():
        dim = model_parallel_dim(name)
        if dim is not None:
            cut[f"dim {dim} of {name}"] = piece.shape[dim]
    return cut


def output_files(
    saved: CheckpointSet, stem: str, layout: Layout, with_optimizer: bool
) -> Iterator[Tuple[FileName, Any]]:
    """Every file of the new set, made when it is asked for."""
    for part in range(layout.model_parallel_size):
        for shard in range(layout.num_shards):
            name = FileName(
                stem,
                part if layout.model_parallel_size > 1 else None,
                shard if layout.num_shards > 1 else None,
            )
            yield name, file_state(saved, layout, part, shard, with_optimizer)


def file_state(
    saved: CheckpointSet, layout: Layout, part: int, shard: int, with_optimizer: bool
) -> Dict[str, Any]:
    """What one file of the new set holds."""
    pieces = {}
    for key, piece in saved.pieces.items():
        of_part = model_part_piece(key, piece.shape, part, layout.model_parallel_size)
        pieces[key] = shard_piece(of_part, shard, layout.num_shards)
    params = saved.first.optimizer_params if with_optimizer else None
    state = (
        state_with_optimizer(saved, pieces, params) if with_optimizer else saved.state_for(pieces)
    )
    return {**state, "layout": layout_entry(layout, part, shard, pieces, params)}


def describe(layout: Layout) -> str:
    """A layout in words."""
    parts, shards = layout.model_parallel_size, layout.num_shards
    if parts * shards == 1:
        return "one file"
    if parts == 1:
        return f"{shards} shards, {shards} files"
    if shards == 1:
        return f"{parts} model parts, {parts} files"
    return f"{parts} model parts of {shards} shards, {parts * shards} files"
