"""Which of the sets in a folder is the newest."""

from pathlib import Path

import torch

from metaseq_plugin.checkpoint.choose import candidates
from tests.checkpoint.cut_sets import Place, save_set, whole_state


def test_the_newest_set_is_the_one_saved_last(tmp_path: Path) -> None:
    whole = whole_state()
    for at, stem in enumerate(("checkpoint_1_50", "checkpoint_last", "checkpoint2", "elsewhere")):
        save_set(Place(tmp_path, (stem,), 2000.0 - at), whole, 1, 1 + at % 2)
    save_set(Place(tmp_path, ("checkpoint_best", "checkpoint_last"), 1998.5), whole)
    assert [name.stem for name in candidates(tmp_path, "")] == [
        "checkpoint_1_50", "checkpoint_last", "checkpoint_best", "checkpoint2",
    ]  # fmt: skip


def test_of_fairseqs_own_files_checkpoint_last_is_the_newest(tmp_path: Path) -> None:
    for stem in ("checkpoint_last", "checkpoint_1_50", "checkpoint2"):
        torch.save(whole_state(), tmp_path / f"{stem}.pt")
    assert candidates(tmp_path, "")[0].stem == "checkpoint_last"
