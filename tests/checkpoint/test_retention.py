"""The --keep-… options delete whole sets, and only those that fairseq would."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseq_plugin.checkpoint.manifest import set_names
from metaseq_plugin.checkpoint.retention import delete_old


def options(folder: Path, **changed: Any) -> Any:
    """fairseq's checkpoint options."""
    defaults = dict(
        save_dir=str(folder), keep_interval_updates=-1, keep_interval_updates_pattern=-1,
        keep_last_epochs=-1, keep_best_checkpoints=-1, best_checkpoint_metric="loss",
        maximize_best_checkpoint_metric=False, no_epoch_checkpoints=False, save_interval=1,
        save_interval_updates=10, no_last_checkpoints=False,
    )  # fmt: skip
    return SimpleNamespace(**{**defaults, **changed})


KEEP: dict[str, tuple[dict[str, Any], bool, set[str]]] = {
    "all": ({}, False, set()),
    "updates": ({"keep_interval_updates": 1}, False, {"checkpoint_1_10", "checkpoint_1_20"}),
    "updates, at the end of an epoch": ({"keep_interval_updates": 1}, True, set()),
    "updates but every 20th": ({"keep_interval_updates": 1, "keep_interval_updates_pattern": 20}, False, {"checkpoint_1_10"}),
    "epochs": ({"keep_last_epochs": 2}, True, {"checkpoint1"}),
    "best": ({"keep_best_checkpoints": 1}, True, {"checkpoint.best_loss_4.0001", "checkpoint.best_loss_3.1000"}),
    "best of a metric that grows": ({"keep_best_checkpoints": 2, "maximize_best_checkpoint_metric": True}, True, {"checkpoint.best_loss_2.5002"}),
}  # fmt: skip
STEMS = (
    "checkpoint1", "checkpoint2", "checkpoint3", "checkpoint_1_10", "checkpoint_1_20",
    "checkpoint_2_30", "checkpoint.best_loss_4.0001", "checkpoint.best_loss_3.1000",
    "checkpoint.best_loss_2.5002", "checkpoint_last", "checkpoint_best",
)  # fmt: skip


@pytest.mark.parametrize("name", KEEP)
def test_whole_sets_are_deleted(tmp_path: Path, name: str) -> None:
    changed, end_of_epoch, dropped = KEEP[name]
    for stem in STEMS:
        for file in (f"{stem}-shard0.pt", f"{stem}-shard1.pt", f"{stem}.manifest.json"):
            (tmp_path / file).touch()
    delete_old(options(tmp_path, **changed), "", end_of_epoch)
    assert {each.stem for each in set_names(tmp_path)} == set(STEMS) - dropped
    assert len(list(tmp_path.iterdir())) == 3 * (len(STEMS) - len(dropped))
