"""Start a training run from the set that it should start from, whatever layout wrote it.

In the place of fairseq's ``load_checkpoint`` for models of ours:
(1) choose the set (``checkpoint/choose.py``);
(2) every rank reads its own pieces of it (``checkpoint/set.py``);
(3) hand them to fairseq's trainer, which takes them as its own file's;
(4) the data go on after what all ranks of the saved run had seen (``checkpoint/data_position.py``).
"""

import ast
import logging
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

from metaseq_plugin.checkpoint.architecture import check_dimensions
from metaseq_plugin.checkpoint.choose import Resets, WentBack, choose
from metaseq_plugin.checkpoint.data_position import (
    check_making,
    check_place,
    has_update_left,
    scaled_position,
)
from metaseq_plugin.checkpoint.save import optimizer_params, own_name
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_optimizer import state_with_optimizer
from metaseq_plugin.checkpoint.state import check_resumable
from metaseq_plugin.compat.checkpoint_errors import unreadable
from metaseq_plugin.compat.checkpoint_sets import (
    handing_over,
    loading_on_every_rank,
    set_best_score,
)
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.held import pieces_of
from metaseq_plugin.layout.peers import Ranks, agree, all_ranks

logger = logging.getLogger(__name__)

# What each of Resets leaves out of a checkpoint that fairseq's trainer loads.
BEGINS_ANEW = (
    "the update count, the optimizer's moments, the learning-rate schedule, the best score",
    "the state of the learning-rate schedule",
    "the averages and the clock of the log, the best score",
    "the data, at epoch 1",
)


def load_checkpoint(
    cfg: Any, trainer: Any, back: Optional[WentBack] = None, **passthrough: Any
) -> Any:
    """fairseq's ``load_checkpoint``: restores ``trainer``; (extra_state, epoch iterator).

    Args:
        back: where the run went back to, if it did.
    """
    ranks = all_ranks()
    own = own_name(trainer)
    start = choose(cfg, own.stem, skips_damaged(trainer), ranks, back)
    overrides = ast.literal_eval(cfg.optimizer_overrides)
    extra_state = None
    if start.source is None:
        last = f"checkpoint_last{own.stem}.pt"
        trainer.load_checkpoint(os.path.join(cfg.save_dir, last))  # says that there is none
    else:
        saved = CheckpointSet.open(start.source.manifest_path, ranks, own, verified=True)
        state = state_of(saved, trainer, start.resets, ranks)
        path = str(saved.first.path)
        with handing_over(path, state), loading_on_every_rank(trainer), naming(path):
            extra_state = trainer.load_checkpoint(
                path, start.resets.optimizer, start.resets.lr_scheduler, overrides,
                reset_meters=start.resets.meters,
            )  # fmt: skip
        history = state["optimizer_history"]
        say_what_begins_anew(start.resets, history[-1]["num_updates"] if history else 0)
    best = (extra_state or {}).get("best")
    if best is not None and not (start.resets.optimizer or start.resets.meters):
        set_best_score(best)
    restored = (
        extra_state["train_iterator"] if extra_state and not start.resets.dataloader else None
    )
    epoch_itr = train_iterator(trainer, restored, str(start.source), **passthrough)
    trainer.lr_step(epoch_itr.epoch)
    return extra_state, epoch_itr


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within, what a state of another structure lets fairseq and torch stumble over names its file.

    Optimizers, schedules and meters say nowhere what their states hold, and take them apart as they go.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise unreadable(path, error) from error


def train_iterator(
    trainer: Any, restored: Optional[Dict[str, Any]], source: str, **passthrough: Any
) -> Any:
    """The epoch iterator at the position ``restored`` of ``source``, or at the first epoch's beginning."""
    epoch = restored["epoch"] if restored else 1
    epoch_itr = trainer.get_train_iterator(epoch=epoch, load_dataset=True, **passthrough)
    if restored is None:
        return epoch_itr
    check_place(restored, len(epoch_itr))
    with naming(source):
        epoch_itr.load_state_dict(restored)
    # A stream goes on with its next epoch itself.
    is_inside = restored.get("iterations_in_epoch", 0) > 0 and "streaming" not in restored
    if is_inside and not has_update_left(epoch_itr, trainer.cfg.optimization):
        logger.info(
            f"no update is left of epoch {epoch} under these settings: epoch {epoch + 1} begins"
        )
        return trainer.get_train_iterator(epoch=epoch + 1, load_dataset=True, **passthrough)
    return epoch_itr


def say_what_begins_anew(resets: Resets, updates: int) -> None:
    """Log what is not taken from a checkpoint of so many ``updates``."""
    anew = [what for what, is_reset in zip(BEGINS_ANEW, resets, strict=True) if is_reset]
    if anew:
        logger.info(f"begin anew, {updates} updates of the checkpoint aside: {'; '.join(anew)}")


def skips_damaged(trainer: Any) -> bool:
    """Whether --skip-damaged-checkpoints was given; tasks other than ours do not know it."""
    options = trainer.cfg.task
    return "skip_damaged_checkpoints" in options and bool(options.skip_damaged_checkpoints)


def state_of(saved: CheckpointSet, trainer: Any, resets: Resets, ranks: Ranks) -> Dict[str, Any]:
    """This rank's state from ``saved``, as ``trainer`` takes it; a mistake is every rank's."""
    state: Dict[str, Any] = {}
    problem = None
    with_optimizer = saved.has_optimizer and not resets.optimizer
    pieces = pieces_of(trainer.get_model())
    try:
        check_resumable(saved.first.state, saved.name)
        check_dimensions(saved, trainer.cfg.model)
        if trainer.cfg.ema.store_ema and pieces != saved.pieces:
            raise UserError(
                "`--store-ema` must go on in the layout that was saved, but this one is another. "
                "Use as many model parts and shards, or leave it out."
            )
        if with_optimizer:
            # Asking for the optimizer builds it, and the trainer builds it again only for a state.
            with_masters = "fp32_params" in vars(trainer.optimizer)
            state = state_with_optimizer(saved, pieces, optimizer_params(trainer), with_masters)
        else:
            state = saved.state_for(pieces)
    except UserError as error:
        problem = str(error)
    agree(ranks, problem)
    adapt_optimizer_name(state, trainer)
    extra = dict(state["extra_state"])
    iterator = extra["train_iterator"]
    if iterator is not None and not resets.dataloader:
        check_making(iterator, state.get("cfg") or {}, trainer.cfg)
        extra["train_iterator"] = scaled_position(
            iterator,
            saved.layout.data_parallel_size,
            trainer.data_parallel_world_size,
            says_so=ranks.rank == 0,
        )
    return {**state, "extra_state": extra}


def adapt_optimizer_name(state: Dict[str, Any], trainer: Any) -> None:
    """Let a run of another precision take the state of the same optimizer.

    fairseq compares the class that holds the optimizer, which is another for fp32, fp16 and bf16.
    """
    settings = (state.get("cfg") or {}).get("optimizer")
    saved = settings.get("_name") if isinstance(settings, dict) else settings
    if state["last_optimizer_state"] is not None and saved == trainer.cfg.optimizer._name:
        last = dict(state["optimizer_history"][-1])
        last["optimizer_name"] = type(trainer.optimizer).__name__
        state["optimizer_history"] = [*state["optimizer_history"][:-1], last]
