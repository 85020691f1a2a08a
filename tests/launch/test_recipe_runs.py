"""A recipe really runs: opt_8m on two CPU ranks of the local executor, twice, the second time from where it was."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin import cli
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.folders.status import state_of
from tests.fairseq_runs import write_data

SMALL = (
    "--executor", "local", "--cpu", "--ranks-per-node", 2, "--wait", "--tokens-per-sample", 64,
    "--batch-tokens", 256, "--no-epoch-checkpoints", "--num-workers", 0,
)  # fmt: skip


def launch(data: Path, save_dir: Path, max_update: int) -> None:
    words = ("launch", "opt_8m", "--data", data, "--save-dir", save_dir, *SMALL, "--max-update", max_update)  # fmt: skip
    assert cli.main(list(map(str, words))) == 0
    assert state_of(save_dir) == "finished"


def updates(save_dir: Path) -> list[int]:
    """The updates that rank 0 logs, in order."""
    log = (save_dir / "launch/logs/rank-0.log").read_text()
    return [int(json.loads(row)["num_updates"]) for row in re.findall(r"\{.*\"gnorm\".*\}", log) if '"train_loss"' not in row]  # fmt: skip


def weights(save_dir: Path) -> dict[str, Any]:
    """Every tensor of both model parts."""
    found = {}
    for path in sorted(save_dir.glob("checkpoint_last-*.pt")):
        state = torch.load(path, weights_only=False)
        found.update({f"{path.name} {name}": tensor for name, tensor in state["model"].items()})
    return found


@pytest.mark.slow
def test_opt_8m_runs_twice_and_resumes(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    launch(data, tmp_path / "whole", 6)
    launch(data, tmp_path / "parts", 3)
    launch(data, tmp_path / "parts", 6)

    assert updates(tmp_path / "whole") == [1, 2, 3, 4, 5, 6]
    assert updates(tmp_path / "parts") == [1, 2, 3, 4, 5, 6]
    kinds = [event["kind"] for event in read_events(tmp_path / "parts").events]
    assert [kind for kind in kinds if kind in ("submitted", "finished")] == 2 * ["submitted", "finished"]  # fmt: skip

    expected, resumed = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert {name.split()[0] for name in expected} == {
        "checkpoint_last-model_part-0-shard0.pt",
        "checkpoint_last-model_part-1-shard0.pt",
    }
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name
