"""``torch.hub`` finds the door of a checkout, from another folder and without the checkout on the path."""

import subprocess
from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.hub import OPT
from tests.hostile.doors import write_model

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import os, torch
opt = torch.hub.load(os.environ["CHECKOUT"], "opt", os.environ["MODEL"], source="local", device="cpu")
print(opt.generate([[5, 6]], 8, seed=1)[0][0].tokens)
"""


@pytest.mark.slow
def test_torch_hub_opens_a_model(
    run_python: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    write_model(tmp_path / "model")
    done = run_python(CODE, CHECKOUT=str(ROOT), MODEL=str(tmp_path / "model"), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    expected = OPT.from_pretrained(tmp_path / "model").generate([[5, 6]], 8, seed=1)[0][0].tokens
    assert done.stdout == f"{expected}\n"
