"""Fixtures that every test may use: a fixed seed, the optional shared folder, and the GPU marker.

The shared folder holds real text and OPT's tokenizer files and is never part of the checkout. It is
the folder that METASEQ_SHARED names, or `shared` beside the checkout; tests that want a file of it
are skipped with the reason when it is absent.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
import torch
from hypothesis import settings

# How long an example takes is the machine's business.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# Tests fork children (tests/fairseq_runs.py), and a fork must not inherit a pool of OpenMP threads.
torch.set_num_threads(1)
# A shell starts what runs in its background deaf to Ctrl-C, and whoever that starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """``shared_file("data/x.txt")`` is that file of the shared folder, or skips the test."""
    folder = Path(os.environ.get("METASEQ_SHARED") or ROOT.parent / "shared")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in the shared folder {folder} (set METASEQ_SHARED)")
        return path

    return find


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python("code", NAME="value")`` runs code in a new interpreter, outside the checkout."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))
