"""Start a training run from the set that it should start from, whatever layout wrote it.

In the place of fairseq's ``load_checkpoint`` for models of ours. Which set that is:

    --restore-file left out     the newest complete set of --save-dir; without one --finetune-from-model;
                                without that the run starts anew
    --restore-file X            X, any path of a set; it must be there
    a requeued SLURM job        its own newest set, and only without one what the options say

A set that is not whole is never skipped silently: its file is named, and the set before it is used only
with --skip-damaged-checkpoints. Every rank then reads its own pieces, hands them to fairseq's trainer,
and the data go on after the batches that all ranks of the saved run had seen.
"""

import ast
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from metaseq_plugin.checkpoint.commit import recover
from metaseq_plugin.checkpoint.manifest import (
    Manifest,
    SetName,
    set_name,
    set_names,
)
from metaseq_plugin.checkpoint.save import optimizer_params, own_name
from metaseq_plugin.checkpoint.set import CheckpointSet, check
from metaseq_plugin.compat.checkpoint_sets import (
    handing_over,
    loading_on_every_rank,
    set_best_score,
)
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.held import pieces_of
from metaseq_plugin.layout.peers import Ranks, agree, all_ranks, on_first

logger = logging.getLogger(__name__)

DEFAULT_RESTORE_FILE = "checkpoint_last.pt"
REQUEUES = "SLURM_RESTART_COUNT"  # how often SLURM has started the job again
OF_A_RUN = r"checkpoint(?:_last|_best|\d+|_\d+_\d+|\.best_.*)"


class Resets(NamedTuple):
    """What of a checkpoint is not taken over."""

    optimizer: bool
    lr_scheduler: bool
    meters: bool
    dataloader: bool


class Start(NamedTuple):
    """Where a run starts: at ``source``, or anew where that is None."""

    source: Optional[SetName]
    resets: Resets


def load_checkpoint(cfg: Any, trainer: Any, **passthrough: Any) -> Any:
    """fairseq's ``load_checkpoint``: restores ``trainer``; (extra_state, epoch iterator)."""
    ranks = all_ranks()
    start = choose(cfg, trainer, ranks)
    overrides = ast.literal_eval(cfg.optimizer_overrides)
    extra_state = None
    if start.source is None:
        last = f"checkpoint_last{own_name(trainer).stem}.pt"
        trainer.load_checkpoint(os.path.join(cfg.save_dir, last))  # says that there is none
    else:
        saved = CheckpointSet.open(
            start.source.manifest_path, ranks, own_name(trainer), verified=True
        )
        state = state_of(saved, trainer, start.resets, ranks)
        path = str(saved.first.path)
        with handing_over(path, state), loading_on_every_rank(trainer):
            extra_state = trainer.load_checkpoint(
                path, start.resets.optimizer, start.resets.lr_scheduler, overrides,
                reset_meters=start.resets.meters,
            )  # fmt: skip
    best = (extra_state or {}).get("best")
    if best is not None and not (start.resets.optimizer or start.resets.meters):
        set_best_score(best)
    restored = (
        extra_state["train_iterator"] if extra_state and not start.resets.dataloader else None
    )
    epoch_itr = trainer.get_train_iterator(
        epoch=restored["epoch"] if restored else 1, load_dataset=True, **passthrough
    )
    if restored:
        epoch_itr.load_state_dict(restored)
    trainer.lr_step(epoch_itr.epoch)
    return extra_state, epoch_itr


def choose(cfg: Any, trainer: Any, ranks: Ranks) -> Start:
    """The set to start from, verified."""
    asked = Resets(
        cfg.reset_optimizer, cfg.reset_lr_scheduler, cfg.reset_meters, cfg.reset_dataloader
    )
    # Only in a run's own folder: another's save may not be interrupted, but going on.
    on_first(ranks, lambda: recover(Path(cfg.save_dir)))
    is_default = cfg.restore_file == DEFAULT_RESTORE_FILE
    check_options(cfg, asked, is_default)
    is_requeued = int(os.environ.get(REQUEUES) or 0) > 0
    if is_default or is_requeued:
        own = newest(cfg, trainer, ranks)
        if own is not None:
            if is_requeued and not is_default:
                logger.info(f"requeued: {own} goes before --restore-file {cfg.restore_file}")
            return Start(own, Resets(False, False, False, False) if is_requeued else asked)
    if not is_default:
        return Start(named("--restore-file", cfg.restore_file, ranks), asked)
    if cfg.continue_once is not None:
        return Start(named("--continue-once", cfg.continue_once, ranks), asked)
    if cfg.finetune_from_model is not None:
        source = named("--finetune-from-model", cfg.finetune_from_model, ranks)
        logger.info(
            f"loading pretrained model from {source}: "
            "optimizer, lr scheduler, meters, dataloader will be reset"
        )
        return Start(source, Resets(True, True, True, True))
    return Start(None, asked)


def check_options(cfg: Any, asked: Resets, is_default: bool) -> None:
    """Refuse what contradicts --finetune-from-model."""
    if cfg.finetune_from_model is None:
        return
    if any(asked):
        raise UserError(
            "`--finetune-from-model` must come without --reset-optimizer, --reset-lr-scheduler, "
            "--reset-meters and --reset-dataloader, but does not. It resets all of them; leave them out."
        )
    if not is_default:
        raise UserError(
            "`--finetune-from-model` must come without --restore-file, but comes with "
            f"{cfg.restore_file}. Leave one of them out."
        )


def named(option: str, value: str, ranks: Ranks) -> SetName:
    """The set that ``option`` names, verified."""
    name = on_first(ranks, lambda: find(Path(value)))
    if not name.exists:
        raise UserError(
            f"`{option}` must name a checkpoint, but {value} does not exist. "
            "Set one that does, or leave it out to start anew."
        )
    check(name, ranks)
    return name


def find(path: Path) -> SetName:
    """The set that ``path`` means; of a folder, the newest."""
    if path.is_dir():
        found = candidates(path, "")
        return found[0] if found else SetName(path, Path(DEFAULT_RESTORE_FILE).stem)
    return set_name(path)


def newest(cfg: Any, trainer: Any, ranks: Ranks) -> Optional[SetName]:
    """The newest complete set of --save-dir, verified; None where there is no file of any.

    Raises:
        UserError: it is damaged, and --skip-damaged-checkpoints was not given or leaves none.
    """
    folder = Path(cfg.save_dir)
    suffix = own_name(trainer).stem
    found = on_first(ranks, lambda: candidates(folder, suffix))
    damage = None
    for name in found:
        try:
            check(name, ranks)
        except UserError as error:
            damage = damage or error
            if not skips_damaged(trainer):
                break
            if ranks.rank == 0:
                logger.warning(f"skipped a damaged checkpoint: {error}")
        else:
            return name
    if damage is not None:
        remedy = (
            f"No other one in {folder} is whole, either. Set --restore-file, or another --save-dir."
            if skips_damaged(trainer)
            else "To resume from the checkpoint before it, set --skip-damaged-checkpoints."
        )
        raise UserError(f"{damage} {remedy}") from damage
    return None


def skips_damaged(trainer: Any) -> bool:
    """Whether --skip-damaged-checkpoints was given; tasks other than ours do not know it."""
    options = trainer.cfg.task
    return "skip_damaged_checkpoints" in options and bool(options.skip_damaged_checkpoints)


def candidates(folder: Path, suffix: str) -> List[SetName]:
    """The sets of a run in ``folder``, complete or not, the newest first."""
    pattern = OF_A_RUN + re.escape(suffix)
    found = [name for name in set_names(folder) if re.fullmatch(pattern, name.stem)]
    return sorted(found, key=lambda name: age_key(name, suffix), reverse=True)


def age_key(name: SetName, suffix: str) -> Any:
    """Later saves are larger; of one save, checkpoint_last is.

    Without a manifest there is only the time of the file. Copying a folder of fairseq's own files
    changes that, so among these checkpoint_last is the newest whatever it says.
    """
    is_last = name.stem == f"checkpoint_last{suffix}"
    saved_at = 0.0
    if name.manifest_path.is_file():
        try:
            saved_at = Manifest.read(name.manifest_path).saved_at
        except UserError:
            saved_at = name.manifest_path.stat().st_mtime
    elif is_last or len(name.files()) > 1:
        saved_at = max(path.stat().st_mtime for path in name.files())
    return saved_at, is_last, name.stem


def state_of(saved: CheckpointSet, trainer: Any, resets: Resets, ranks: Ranks) -> Dict[str, Any]:
    """This rank's state from ``saved``, as ``trainer`` takes it; a mistake is every rank's."""
    state: Dict[str, Any] = {}
    problem = None
    with_optimizer = saved.has_optimizer and not resets.optimizer
    pieces = pieces_of(trainer.get_model())
    try:
        if trainer.cfg.ema.store_ema and pieces != saved.pieces:
            raise UserError(
                "`--store-ema` must go on in the layout that was saved, but this one is another. "
                "Use as many model parts and shards, or leave it out."
            )
        state = saved.state_for(
            pieces,
            # Asking for the optimizer builds it, and the trainer builds it again only for a state.
            optimizer_params(trainer) if with_optimizer else None,
            with_optimizer,
            with_optimizer and "fp32_params" in vars(trainer.optimizer),
        )
    except UserError as error:
        problem = str(error)
    agree(ranks, problem)
    adapt_optimizer_name(state, trainer)
    extra = dict(state["extra_state"])
    iterator = extra["train_iterator"]
    if iterator is not None and not resets.dataloader:
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
    saved = ((state.get("cfg") or {}).get("optimizer") or {}).get("_name")
    if state["last_optimizer_state"] is not None and saved == trainer.cfg.optimizer._name:
        last = dict(state["optimizer_history"][-1])
        last["optimizer_name"] = type(trainer.optimizer).__name__
        state["optimizer_history"] = [*state["optimizer_history"][:-1], last]


def scaled_position(
    iterator: Dict[str, Any], saved_size: int, size: int, says_so: bool = True
) -> Dict[str, Any]:
    """The data position for ``size`` data-parallel ranks: batches are dealt to them in turn.

    A streaming task's position is one of all ranks, and stays as it is.
    """
    if "streaming" in iterator:
        return iterator
    batches = iterator.get("iterations_in_epoch", 0) * saved_size
    position, repeated = divmod(batches, size)
    if repeated and says_so:
        logger.warning(
            f"the checkpoint has seen {batches} batches of this epoch, which {size} data-parallel "
            f"ranks cannot share out evenly: {repeated} of them will be seen twice"
        )
    return {**iterator, "iterations_in_epoch": position}
