"""Which of the sets in a folder is the newest."""

from pathlib import Path

import torch

from metaseq_plugin.checkpoint.choose import WentBack, candidates, of_history
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


def test_what_a_run_went_back_over_is_not_of_its_history(tmp_path: Path) -> None:
    """It went back to update 5 at second 3000: what it has of later updates must have been saved since."""
    for stem, updates, at in (("checkpoint_1_5", 5, 1000.0), ("checkpoint_1_9", 9, 2000.0),
                              ("checkpoint_1_7", 7, 4000.0), ("checkpoint_last", 9, 2000.0)):  # fmt: skip
        whole = whole_state()
        whole["optimizer_history"][-1]["num_updates"] = updates
        save_set(Place(tmp_path, (stem,), at), whole)
    torch.save(whole_state(), tmp_path / "checkpoint2.pt")  # which says nothing of itself
    names = candidates(tmp_path, "")
    for is_now in (True, False):
        kept = of_history(names, WentBack([(5, 3000.0)], is_now))
        assert {name.stem for name in kept} == {"checkpoint_1_5", "checkpoint_1_7", "checkpoint2"}
    assert of_history(names, None) == names


def test_what_a_run_went_back_over_before_stays_out_when_it_goes_back_again(tmp_path: Path) -> None:
    """To update 5 at second 3000 and, having come further, to update 8 at second 5000."""
    for stem, updates, at in (("checkpoint_1_5", 5, 1000.0), ("checkpoint_best", 7, 2000.0),
                              ("checkpoint_1_8", 8, 4000.0), ("checkpoint_last", 9, 4500.0)):  # fmt: skip
        whole = whole_state()
        whole["optimizer_history"][-1]["num_updates"] = updates
        save_set(Place(tmp_path, (stem,), at), whole)
    kept = of_history(candidates(tmp_path, ""), WentBack([(5, 3000.0), (8, 5000.0)], False))
    assert [name.stem for name in kept] == ["checkpoint_1_8", "checkpoint_1_5"]
