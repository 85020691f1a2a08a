"""Seconds until a stock command has something to say: ``fairseq-train --help``, and the first update of a run.

    python -m benchmarks.start
    python -m benchmarks.start --rounds 10 --only help

Ours has ``--user-dir metaseq_plugin``; fairseq alone is the same command without it, and for the update its
``transformer_lm`` of the same dimensions on its ``dummy_lm``. The steps:
(1) each contender is a process from its start to its end, and they take turns;
(2) its CPU seconds are counted beside the wall's, as they are what other work on the machine changes least;
(3) the best of each is printed, as a ratio to fairseq's own.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Mapping, NamedTuple

import torch

FAIRSEQ, OURS = "fairseq alone", "ours"
# Two layers of 128 on 8 × 64 tokens: an update of milliseconds, so that the rest shows.
LAYERS, WIDTH, HEADS, VOCABULARY, TOKENS, ROWS = 2, 128, 2, 1_000, 64, 8


class Spent(NamedTuple):
    """Seconds of one process."""

    wall: float
    cpu: float


def commands() -> Mapping[str, Mapping[str, List[str]]]:
    """What is compared -> contender -> its command."""
    train = [str(Path(sys.executable).with_name("fairseq-train"))]
    ours = ["--user-dir", "metaseq_plugin"]
    run = list(
        map(
            str,
            (
                "--cpu", "--optimizer", "adam", "--lr", 1e-3, "--decoder-layers", LAYERS,
                "--decoder-embed-dim", WIDTH, "--decoder-attention-heads", HEADS,
                "--decoder-ffn-embed-dim", 4 * WIDTH, "--dict-size", VOCABULARY, "--tokens-per-sample", TOKENS,
                "--batch-size", ROWS, "--max-update", 1, "--no-save", "--disable-validation",
            ),
        )
    )  # fmt: skip
    theirs = [
        "--task",
        "dummy_lm",
        "--arch",
        "transformer_lm",
        "--share-decoder-input-output-embed",
    ]
    own = ["--task", "opt_dummy_lm", "--arch", "opt", "--criterion", "chunked_cross_entropy"]
    return {
        "help": {FAIRSEQ: [*train, "--help"], OURS: [*train, *ours, "--help"]},
        "update": {FAIRSEQ: [*train, *theirs, *run], OURS: [*train, *ours, *own, *run]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--only", choices=commands(), help="one of the comparisons")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    for name, contenders in commands().items():
        if options.only in (None, name):
            report(name, take_turns(contenders, options.rounds))


def take_turns(contenders: Mapping[str, List[str]], rounds: int) -> Mapping[str, List[Spent]]:
    """Contender -> what each of its rounds took."""
    spent: Mapping[str, List[Spent]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, command in contenders.items():
            spent[name].append(run(command))
    return spent


def run(command: List[str]) -> Spent:
    """Run ``command`` to its end.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:  # fairseq makes checkpoints/ in it
        before, began = os.times(), time.perf_counter()
        ended = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder
        )
        wall, after = time.perf_counter() - began, os.times()
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
    cpu = after.children_user + after.children_system
    return Spent(wall, cpu - before.children_user - before.children_system)


def report(name: str, spent: Mapping[str, List[Spent]]) -> None:
    """A line of each contender: the best of its rounds, and as a ratio to fairseq's."""
    walls = {contender: min(s.wall for s in rounds) for contender, rounds in spent.items()}
    cpus = {contender: min(s.cpu for s in rounds) for contender, rounds in spent.items()}
    for contender in spent:
        wall, cpu = walls[contender], cpus[contender]
        print(
            f"{name:<8}{contender:<15}{wall:7.2f} s{wall / walls[FAIRSEQ]:7.2f} x"
            f"{cpu:9.2f} s of CPU{cpu / cpus[FAIRSEQ]:7.2f} x"
        )


if __name__ == "__main__":
    main()
