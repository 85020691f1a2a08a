"""Choose the checkpoint set that a training run starts from, or that it starts anew.

    --restore-file left out     the newest complete set of --save-dir; without one --finetune-from-model;
                                without that the run starts anew
    --restore-file X            X, any path of a set; it must be there
    a requeued SLURM job        its own newest set, and only without one what the options say

A set that is not whole is never skipped silently: its file is named, and the set before it is used only
with --skip-damaged-checkpoints.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from metaseq_plugin.checkpoint.commit import recover
from metaseq_plugin.checkpoint.manifest import Manifest, SetName, set_name, set_names
from metaseq_plugin.checkpoint.set import check
from metaseq_plugin.compat.checkpoint_errors import DEFAULT_RESTORE_FILE
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.peers import Ranks, on_first

logger = logging.getLogger(__name__)

REQUEUES = "SLURM_RESTART_COUNT"  # how often SLURM has started the job again
OF_A_RUN = r"checkpoint(?:_last|_best|\d+|_\d+_\d+|\.best_.*)"


class Resets(NamedTuple):
    """What of a checkpoint is not taken over."""

    optimizer: bool = False
    lr_scheduler: bool = False
    meters: bool = False
    dataloader: bool = False


class WentBack(NamedTuple):
    """A run went back to a checkpoint, or to its start, once or more often.

    What it had saved until then after the updates of that checkpoint is not of its history any more.

    Attributes:
        times: of each time, the updates that it went back to, and when: seconds since 1970.
        is_now: it has not gone on since the last one.
    """

    times: Sequence[Tuple[int, float]]
    is_now: bool

    def is_valid(self, name: SetName) -> bool:
        """Whether ``name`` is of the history; a set that says nothing of itself is taken to be."""
        if not name.manifest_path.is_file():
            return True
        manifest = Manifest.read(name.manifest_path)
        return all(
            manifest.num_updates <= updates or manifest.saved_at > time
            for updates, time in self.times
        )


class Start(NamedTuple):
    """Where a run starts: at ``source``, or anew where that is None."""

    source: Optional[SetName]
    resets: Resets


def choose(
    cfg: Any, suffix: str, skips_damaged: bool, ranks: Ranks, back: Optional[WentBack] = None
) -> Start:
    """The set to start from, verified.

    Args:
        suffix: the user's --checkpoint-suffix.
        skips_damaged: whether --skip-damaged-checkpoints was given.
        back: where the run went back to, if it did; now, it goes on like a job that was requeued.
    """
    asked = Resets(
        cfg.reset_optimizer, cfg.reset_lr_scheduler, cfg.reset_meters, cfg.reset_dataloader
    )
    # Only in a run's own folder: another's save may not be interrupted, but going on.
    on_first(ranks, lambda: recover(Path(cfg.save_dir)))
    is_default = cfg.restore_file == DEFAULT_RESTORE_FILE
    check_options(cfg, asked, is_default)
    is_back = back is not None and back.is_now
    goes_on = is_back or is_requeued()
    if is_default or goes_on:
        own = newest(Path(cfg.save_dir), suffix, skips_damaged, ranks, back)
        if own is not None:
            if goes_on and not (is_back or is_default):
                logger.info(f"requeued: {own} goes before --restore-file {cfg.restore_file}")
            return Start(own, Resets() if goes_on else asked)
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


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get(REQUEUES) or 0) > 0


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


def newest(
    folder: Path, suffix: str, skips_damaged: bool, ranks: Ranks, back: Optional[WentBack] = None
) -> Optional[SetName]:
    """The newest complete set of ``folder``, verified; None where there is no file of any.

    Args:
        back: leaves out what is not of the history since.

    Raises:
        UserError: it is damaged, and --skip-damaged-checkpoints was not given or leaves none.
    """
    found = on_first(ranks, lambda: of_history(candidates(folder, suffix), back))
    damage = None
    for name in found:
        try:
            check(name, ranks)
        except UserError as error:
            damage = damage or error
            if not skips_damaged:
                break
            if ranks.rank == 0:
                logger.warning(f"skipped a damaged checkpoint: {error}")
        else:
            return name
    if damage is not None:
        remedy = (
            f"No other one in {folder} is whole, either. Set --restore-file, or another --save-dir."
            if skips_damaged
            else "To resume from the checkpoint before it, set --skip-damaged-checkpoints."
        )
        raise UserError(f"{damage} {remedy}") from damage
    return None


def candidates(folder: Path, suffix: str) -> List[SetName]:
    """The sets of a run in ``folder``, complete or not, the newest first."""
    pattern = OF_A_RUN + re.escape(suffix)
    found = [name for name in set_names(folder) if re.fullmatch(pattern, name.stem)]
    return sorted(found, key=lambda name: age_key(name, suffix), reverse=True)


def of_history(names: List[SetName], back: Optional[WentBack]) -> List[SetName]:
    """Those of ``names`` that a run that went ``back`` may go on from."""
    return names if back is None else [name for name in names if back.is_valid(name)]


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
