"""Ranks that fairseq spawns itself, as it does for several GPUs: each is a new interpreter.

Nothing has imported the user directory there when fairseq first asks for groups of ranks.
"""

import subprocess
from pathlib import Path
from typing import Callable

import pytest

from tests.fairseq_runs import training_arguments, write_data

TWO_GPUS = """
import sys
import torch

torch.cuda.device_count = lambda: 2  # fairseq spawns as many ranks; --cpu keeps them off
from fairseq_cli.train import cli_main

sys.argv[0] = "fairseq-train"
cli_main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["--model-parallel-size 2", "--ddp-backend fully_sharded"])
def test_spawned_ranks_are_laid_out(
    run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, layout: str
) -> None:
    data = write_data(tmp_path / "data")
    options = ("--distributed-world-size", 2, "--distributed-backend", "gloo", "--max-update", 2)
    arguments = training_arguments(data, tmp_path / "run", *options, *layout.split())
    done = run_python(f"import sys; sys.argv[1:] = {arguments!r}\n{TWO_GPUS}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/checkpoint_last.manifest.json").is_file()
