"""Memory in huge pages: asked for where fairseq is imported first, and not where the user says no."""

import subprocess
from pathlib import Path
from typing import Callable

import pytest

RunPython = Callable[..., subprocess.CompletedProcess[str]]
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import {first}, torch
memory = torch.ones(16 * 1024 * 1024)
lines = [line.split() for line in open("/proc/self/smaps")]
print(sum(int(kib) for name, kib, _ in (line for line in lines if line[0] == "AnonHugePages:")))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="this kernel gives no huge pages",
)
def test_tensors_lie_in_huge_pages(run_python: RunPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    done = run_python(PROGRAM.format(first="fairseq"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 60 * 1024  # of 64 MiB, in KiB
    if "[always]" not in SETTING.read_text():
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
        done = run_python(PROGRAM.format(first="fairseq"))
        assert int(done.stdout.splitlines()[-1]) == 0
