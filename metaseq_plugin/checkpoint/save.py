"""Save a training run's state as sets: fairseq's names and conditions, every set whole or not there.

In the place of fairseq's ``save_checkpoint`` for models of ours:
(1) decide under which names to save (checkpoint_last, checkpoint_best, checkpoint_3, …);
(2) let fairseq's trainer make the state, move it to the CPU and add the ``layout``;
(3) write the set (``checkpoint/commit.py``), once for all names;
(4) delete the sets that the --keep-… options do not keep (``checkpoint/retention.py``).

With --use-sharded-state every rank saves its own shard. Otherwise data-parallel rank 0 of each model
part saves the part, and a fully sharded model is gathered for it, by all ranks.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from fairseq import utils
from fairseq.data import data_utils

from metaseq_plugin.checkpoint.commit import Save, commit
from metaseq_plugin.checkpoint.manifest import FileName
from metaseq_plugin.checkpoint.retention import best_sets, delete_old
from metaseq_plugin.checkpoint.set_file import DATA_FROM_RUN, layout_entry
from metaseq_plugin.compat.checkpoint_sets import best_score, set_best_score
from metaseq_plugin.distributed.run import current
from metaseq_plugin.layout.cuts import model_part_piece
from metaseq_plugin.layout.held import named_pieces, pieces_of
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import all_ranks, on_first, ranks_of
from metaseq_plugin.layout.piece import Piece

logger = logging.getLogger(__name__)


def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
    """fairseq's ``save_checkpoint``; called on every rank."""
    if val_loss is not None:
        better = max if cfg.maximize_best_checkpoint_metric else min
        best = best_score()
        set_best_score(val_loss if best is None else better(val_loss, best))
    if cfg.no_save:
        return
    trainer.consolidate_optimizer()
    if not trainer.should_save_checkpoint_on_current_rank:
        if trainer.always_call_state_dict_during_save_checkpoint:
            trainer.state_dict()  # this rank's share in gathering it
        return
    started = time.monotonic()
    # Those that write the set together; this one is among them.
    ranks = all_ranks() if is_sharded(trainer) else ranks_of(current().grid.model_group)
    name = own_name(trainer)
    stems = on_first(ranks, lambda: stems_to_save(cfg, trainer, epoch_itr, val_loss))
    stems = [f"{stem}{name.stem}" for stem in stems]  # with the user's --checkpoint-suffix
    updates = trainer.get_num_updates()
    if stems or trainer.always_call_state_dict_during_save_checkpoint:
        state = make_state(trainer, epoch_itr, val_loss)
        if stems:
            save = Save(
                Path(cfg.save_dir), stems, updates, epoch_itr.epoch, time.time(),
                layout_of(trainer),
            )  # fmt: skip
            commit(save, [(name._replace(stem=stems[0]), state)], ranks)
            logger.info(
                f"Saved checkpoint {', '.join(stems)} to {cfg.save_dir} (epoch {epoch_itr.epoch} @ "
                f"{updates} updates, score {val_loss}) in {time.monotonic() - started:.1f} s"
            )
    if ranks.rank == 0:
        delete_old(cfg, name.stem, epoch_itr.end_of_epoch())


def is_sharded(trainer: Any) -> bool:
    """Whether every rank saves its own shard."""
    return bool(trainer.is_fsdp and trainer.cfg.distributed_training.use_sharded_state)


def own_name(trainer: Any) -> FileName:
    """The name of this rank's file; the user's --checkpoint-suffix stands where the stem does."""
    suffix = trainer.checkpoint_suffix
    numbers = FileName.parse(f"_{suffix}.pt")
    assert numbers is not None, f"a checkpoint suffix of {suffix}"
    return numbers._replace(stem=numbers.stem.removeprefix("_"))


def layout_of(trainer: Any) -> Layout:
    """How this run cuts a set."""
    now = current().grid
    data_parallel_size = trainer.data_parallel_world_size
    shards = data_parallel_size if is_sharded(trainer) else 1
    return Layout(now.model_parallel_size, shards, data_parallel_size)


def make_state(trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> Dict[str, Any]:
    """fairseq's state, on the CPU, with the layout of its tensors."""
    state: Dict[str, Any] = utils.move_to_cpu(trainer.state_dict())
    state["extra_state"].update(train_iterator=epoch_itr.state_dict(), val_loss=val_loss)
    best = best_score()
    if best is not None:
        state["extra_state"]["best"] = best
    pieces = saved_pieces(trainer)
    for name, tensor in state["model"].items():
        assert tensor.shape == pieces[name].size, f"{name}: {tensor.shape} is not {pieces[name]}"
    now = current().grid
    shard = trainer.data_parallel_rank if is_sharded(trainer) else 0
    params = optimizer_params(trainer)
    state["layout"] = layout_entry(
        layout_of(trainer), now.model_parallel_rank, shard, pieces, params
    )
    state[DATA_FROM_RUN] = data_from_run(trainer.cfg)
    return state


def data_from_run(cfg: Any) -> Optional[str]:
    """The data folder, seen from --save-dir, where a copy of the run may have it along: else None."""
    if "data" not in cfg.task or not cfg.task.data:
        return None
    data, save_dir = (
        Path(folder).resolve() for folder in (cfg.task.data.split(":")[0], cfg.checkpoint.save_dir)
    )
    relative = os.path.relpath(data, save_dir)
    return relative if Path(relative).parts.count("..") <= 1 else None


def saved_pieces(trainer: Any) -> Dict[str, Piece]:
    """name -> what this rank's file holds; a sharded model that is gathered is a whole model part."""
    pieces = pieces_of(trainer.get_model())
    if not trainer.is_fsdp or is_sharded(trainer):
        return pieces
    now = current().grid
    return {
        name: model_part_piece(name, p.shape, now.model_parallel_rank, now.model_parallel_size)
        for name, p in pieces.items()
    }


def optimizer_params(trainer: Any) -> Optional[List[str]]:
    """Names of the optimizer's parameters in its order; None where they are not the model's own."""
    names = {id(p): name for name, p, _ in named_pieces(trainer.get_model())}
    optimizer = trainer.optimizer
    held = vars(optimizer)
    if isinstance(held.get("fp32_params"), list):  # copies of the model's, in the same order
        for original, copy in zip(held["fp16_params"], held["fp32_params"], strict=True):
            names[id(copy)] = names[id(original)]
    params = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return [names[p] for p in params] if names.keys() >= set(params) else None


def stems_to_save(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> List[str]:
    """The names that fairseq's options ask for now."""
    epoch, updates = epoch_itr.epoch, trainer.get_num_updates()
    ended = epoch_itr.end_of_epoch()
    every = cfg.save_interval_updates
    stems = {
        f"checkpoint{epoch}": ended
        and not cfg.no_epoch_checkpoints
        and epoch % cfg.save_interval == 0,
        f"checkpoint_{epoch}_{updates}": not ended and every > 0 and updates % every == 0,
        "checkpoint_best": val_loss is not None and is_as_good(cfg, val_loss, best_score()),
    }
    if val_loss is not None and cfg.keep_best_checkpoints > 0:
        kept = [value for value, _ in best_sets(cfg, own_name(trainer).stem)]
        worst = kept[-1] if kept else best_score()
        # A random last digit keeps apart what is equally good.
        with data_utils.numpy_seed(epoch, updates, val_loss):
            digit = np.random.randint(0, cfg.keep_best_checkpoints)
        stem = f"checkpoint.best_{cfg.best_checkpoint_metric}_{val_loss:.3f}{digit}"
        stems[stem] = is_as_good(cfg, val_loss, worst)
    stems["checkpoint_last"] = not cfg.no_last_checkpoints
    return [stem for stem, is_due in stems.items() if is_due]


def is_as_good(cfg: Any, score: float, other: Optional[float]) -> bool:
    """Whether ``score`` is at least as good as ``other``."""
    if other is None:
        return True
    return score >= other if cfg.maximize_best_checkpoint_metric else score <= other
