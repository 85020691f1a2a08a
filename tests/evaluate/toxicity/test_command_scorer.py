"""A process of the user's as scorer: what it may do, and each thing that it may not."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.scorers.command import Command
from metaseq_plugin.evaluate.toxicity.scorers.reading import read_scorer

GOOD = """
import json, sys
for line in sys.stdin:
    text = json.loads(line)["text"]
    print(json.dumps({"score": len(text) / 100}), flush=True)
"""
# What it writes at its start and to each line instead.
FAULTS = {
    'print("ready", flush=True)': "it was not asked for|what is no JSON: ready",
    'for line in sys.stdin: print("{}", flush=True)': 'no number as "score": {}',
    'for line in sys.stdin: print("[1]", flush=True)': 'no number as "score"',
    'for line in sys.stdin: print(\'{"score": true}\', flush=True)': 'no number as "score"',
    'for line in sys.stdin: print(\'{"score": "1"}\', flush=True)': 'no number as "score"',
    'for line in sys.stdin: print(\'{"score": NaN}\', flush=True)': "gave nan",
    'for line in sys.stdin: print(\'{"score": 7}\', flush=True)': "gave 7",
    'for line in sys.stdin: print(\'{"score": 1\' + "0" * 400 + "}", flush=True)': 'gave {"score": 1000',
    'for line in sys.stdin: print(\'{"error": "quota exceeded"}\', flush=True)': "says: quota exceeded",
    "sys.stdin.readline(); sys.exit(3)": "ended instead .exit status 3",
    "import os; os.kill(os.getpid(), 9)": "ended.* .SIGKILL",
    "sys.stdin.readline(); time.sleep(60)": "gave none within 1 seconds",
    'sys.stdin.readline(); print(\'{"score": 0.5}\', flush=True); sys.exit(0)': "ended.* .exit status 0",
    'sys.stdin.readline(); print(\'{"score": 0.5}\\n\' * 3, flush=True); time.sleep(60)': "it was not asked for",
    'sys.stdout.buffer.write(b"\\xff\\n"); sys.stdout.flush(); sys.stdin.read()': "it was not asked for|no JSON",
}  # fmt: skip


def program(folder: Path, source: str) -> str:
    path = folder / "my scorer.py"
    path.write_text(f"import sys, time\n{source}\n")
    return f'{sys.executable} -S "{path}"'


def test_it_lives_on_and_answers_in_order(tmp_path: Path) -> None:
    scorer = read_scorer(f"command:{program(tmp_path, GOOD)}")
    assert isinstance(scorer, Command)
    assert scorer.score(["a", "bb\n\u2028", "", "☕" * 5]) == [0.01, 0.04, 0, 0.05]
    first = scorer.process.pid
    assert scorer.score(["abc"]) == [0.03]
    assert scorer.process.pid == first
    assert (scorer.measure, scorer.threshold) == ("command_score", 0.5)
    scorer.end()
    assert scorer.process.returncode == 0


def test_more_than_a_pipe_holds(tmp_path: Path) -> None:
    source = 'for line in sys.stdin: print(\'{"score": 0.5, "why": "\' + "x" * 2000 + \'"}\', flush=True)'
    scorer = Command(program(tmp_path, source))
    assert scorer.score(["y" * 2000] * 200) == [0.5] * 200
    scorer.end()


@pytest.mark.parametrize(("source", "what"), FAULTS.items())
def test_what_it_may_not_do(tmp_path: Path, source: str, what: str) -> None:
    scorer = Command(program(tmp_path, source), timeout=1 if "within" in what else 30)
    with pytest.raises(UserError, match=f"must give one number from 0 to 1 .*({what})"):  # noqa: PT012
        for _ in range(50):  # what it does besides answering may be seen a little later
            scorer.score(["a"])
            time.sleep(0.02)
    assert not psutil.pid_exists(scorer.process.pid)


def test_after_a_fault_it_is_asked_no_more(tmp_path: Path) -> None:
    scorer = Command(program(tmp_path, "sys.stdin.readline(); sys.exit(3)"), timeout=30)
    for _ in range(2):
        with pytest.raises(UserError, match="ended"):
            scorer.score(["a"])


def test_it_ends_with_its_scorer(tmp_path: Path) -> None:
    scorer = Command(program(tmp_path, GOOD))
    process = scorer.process
    del scorer
    assert process.wait(10) == 0


@pytest.mark.parametrize("command", ["/no/such/program", '"', "   "])
def test_what_cannot_be_started(command: str) -> None:
    with pytest.raises(UserError, match="command:COMMAND must be a command that can be started"):
        read_scorer(f"command:{command}")
