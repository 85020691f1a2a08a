"""Ranks that a model starts by itself: they end with it, and one that dies is named. Each is a new interpreter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from metaseq_plugin.hub import OPT
from tests.decoding_runs import save_hf
from tests.opt_models import KINDS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hf(tmp_path_factory.mktemp("started") / "hf", 40, 0.3, **KINDS["pre-norm"])


@pytest.mark.slow
def test_the_prompt_line_starts_ranks_by_itself(model: Path) -> None:
    metaseq = str(Path(sys.executable).parent / "metaseq")
    done = subprocess.run(
        [metaseq, "generate", str(model), "--model-parallel-size", "3", "--prompt", "a"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "metaseq generate: error: `--model-parallel-size` must divide the model's attention heads"
        )
    )
    assert "Traceback" not in done.stderr


STARTED = """
import os, signal, sys, time
from metaseq_plugin.hub import OPT
opt = OPT.from_pretrained(sys.argv[1], model_parallel_size=2)
print([completion.tokens for found in opt.generate([[5, 6], [7]], 6, seed=1) for completion in found])
other = int(next(pid for pid in os.popen(f"pgrep -P {os.getpid()}").read().split()))
"""
KILL_THE_OTHER = """
from metaseq_plugin.compat.errors import LostRank
told = []
opt.ranks.when_lost(told.append)
os.kill(other, signal.SIGKILL)
started = time.monotonic()
for _ in range(2):
    try:
        opt.generate([[5, 6]], 8)
    except LostRank as error:
        print(error)
assert time.monotonic() - started < 5
assert told == [opt.ranks.lost]
"""
END_ALL = """
sys.stdout.flush()
print(other, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run_started(model: Path, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run code in a script without a main guard, whose model has started a rank by itself."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(STARTED + code)
        return subprocess.run(
            [sys.executable, str(script), str(model)], capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_started_ranks_end_with_the_script(run_started: Any, model: Path) -> None:
    done = run_started("")
    one = OPT.from_pretrained(model)
    expected = [c.tokens for found in one.generate([[5, 6], [7]], 6, seed=1) for c in found]
    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_started_rank_that_is_killed_is_named(run_started: Any) -> None:
    done = run_started(KILL_THE_OTHER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("but rank 1 ended by SIGKILL") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_started_ranks_do_not_outlive_rank_0(run_started: Any) -> None:
    done = run_started(END_ALL)
    assert done.returncode == -signal.SIGKILL
    other = Path("/proc", done.stdout.split()[-1])
    deadline = time.monotonic() + 10
    while other.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not other.exists()
    assert "Traceback" not in done.stderr
