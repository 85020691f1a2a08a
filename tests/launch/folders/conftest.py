"""What tests of run folders share."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.launch.folders.run_folders import fake


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Path:
    """The folder of stand-ins for SLURM's commands, which know no job."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    fake(folder, "squeue", "true")
    fake(folder, "sacct", "true")
    return folder
