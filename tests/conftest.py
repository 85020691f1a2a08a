"""Fixtures that every test may use: a fixed seed, the optional shared folder, and the GPU marker.

The shared folder holds real text and OPT's tokenizer files and is never part of the checkout. It is
the folder that METASEQ_SHARED names, or `shared` beside the checkout; tests that want a file of it
are skipped with the reason when it is absent.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

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


class FailuresAtOnce:
    """Tells a failure when it happens, too: a run may be cut before its summary."""

    def __init__(self, plugins: pytest.PytestPluginManager) -> None:
        self.plugins = plugins

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal: Any = self.plugins.get_plugin("terminalreporter")
            terminal.write_line("")
            terminal.write_line(f"{report.nodeid} failed in its {report.when}:")
            terminal.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker's reports are the main process's to tell
        config.pluginmanager.register(FailuresAtOnce(config.pluginmanager))


@pytest.hookimpl(tryfirst=True)  # before fixtures, which may be what takes long
def pytest_runtest_setup(item: pytest.Item) -> None:
    until = os.environ.get("METASEQ_SLOW_UNTIL")
    if until and item.get_closest_marker("slow") is not None and time.time() > int(until):
        pytest.skip("the time for slow tests is over (METASEQ_SLOW_UNTIL)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))
