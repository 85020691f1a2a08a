"""Which of a run's sets are kept; all others are deleted, each as a whole.

    --keep-interval-updates N    the N newest of checkpoint_⟨epoch⟩_⟨updates⟩, but not at an epoch's end
    --keep-last-epochs N         the N newest of checkpoint⟨epoch⟩
    --keep-best-checkpoints N    the N best of checkpoint.best_⟨metric⟩_⟨score⟩

Sets of other names stay, and so do those whose updates --keep-interval-updates-pattern divides.
"""

import re
from pathlib import Path
from typing import Any, List, Tuple

from metaseq_plugin.checkpoint.commit import delete
from metaseq_plugin.checkpoint.manifest import SetName, set_names

Numbered = List[Tuple[float, SetName]]


def best_sets(cfg: Any, suffix: str) -> Numbered:
    """(score, set) of the sets that --keep-best-checkpoints counts, the best first."""
    pattern = rf"checkpoint\.best_{re.escape(cfg.best_checkpoint_metric)}_(\d+\.?\d*)"
    return matching(cfg, pattern, suffix, descending=cfg.maximize_best_checkpoint_metric)


def matching(cfg: Any, pattern: str, suffix: str, descending: bool = True) -> Numbered:
    """(number, set) of the sets whose stem is ``pattern`` with one number in it, sorted by it."""
    found: Numbered = []
    for name in set_names(Path(cfg.save_dir)):
        match = re.fullmatch(pattern + re.escape(suffix), name.stem)
        if match is not None:
            found.append((float(match[1]), name))
    return sorted(found, reverse=descending)


def delete_old(cfg: Any, suffix: str, end_of_epoch: bool) -> None:
    """Delete what --keep-interval-updates, --keep-last-epochs and --keep-best-checkpoints drop."""
    dropped: Numbered = []
    if not end_of_epoch and cfg.keep_interval_updates > 0:
        every = cfg.keep_interval_updates_pattern
        sets = matching(cfg, r"checkpoint_\d+_(\d+)", suffix)
        passing = [entry for entry in sets if every == -1 or entry[0] % every != 0]
        dropped += passing[cfg.keep_interval_updates :]
    if cfg.keep_last_epochs > 0:
        dropped += matching(cfg, r"checkpoint(\d+)", suffix)[cfg.keep_last_epochs :]
    if cfg.keep_best_checkpoints > 0:
        dropped += best_sets(cfg, suffix)[cfg.keep_best_checkpoints :]
    for _, name in dropped:
        delete(name)
