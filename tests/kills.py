"""kill -9 at seeded moments over training, saving, converting, preparing and cleaning: is anything lost?

    python -m tests.kills --kills 1000 --seed 0 --folder /tmp/kills --result benchmarks/results/2026-11-27-kills-cpu.md

It is no part of the suite: a thousand kills take minutes. Each kind of work (``Work``) is first done once without a
kill, which says how long it takes and what its result is. Then, again and again:
(1) a forked process does it;
(2) after a random share of that time it is killed, with whatever it forked; one that has ended before is not counted;
(3) what lies on the disk is held against the rule of its kind, and the next process goes on from there.
"""

import argparse
import hashlib
import logging
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple

import torch
from fairseq_cli import train as fairseq_train

from metaseq_plugin.checkpoint.commit import Save, commit, recover
from metaseq_plugin.checkpoint.manifest import FileName, Manifest, SetName
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import layout_entry
from metaseq_plugin.data.prepare import command as prepare
from metaseq_plugin.data.tools.clean import command as clean
from metaseq_plugin.formats import convert
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import ALONE
from metaseq_plugin.layout.piece import Piece
from tests.data.trained import real_texts, write_jsonl
from tests.fairseq_runs import training_arguments, write_data

LAST = "checkpoint_last"
STEMS = ("checkpoint_1_50", LAST)
WEIGHT = "decoder.layer_norm.weight"
ROWS, SHARDS = 120_000, 3
MOST = 1_000_000  # updates or saves, of a process that is killed long before
# Of every 20 kills; the rest is training.
SHARES = {"save": 7, "convert": 4, "prepare": 4, "clean": 3, "train": 2}


class Work(NamedTuple):
    """One kind of work, in a folder of its own."""

    act: Callable[[], object]  # in the process that is killed
    check: Callable[[], None]  # behind the kill; AssertionError where something is lost
    committed: Callable[[], int] = lambda: 0  # the update of the set that counts
    seconds: float = 0.0  # of the longest delay; 0: what ``act`` takes


def digests(folder: Path, without: str = "") -> Dict[str, str]:
    """Path below ``folder`` → checksum, of files that are not ``without``."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (not without or without not in path.name)
    }


def run(tool: ModuleType, *argv: object) -> None:
    parser = argparse.ArgumentParser()
    tool.add_arguments(parser)
    tool.run(parser.parse_args([str(argument) for argument in argv]))


def updates_in(folder: Path) -> int:
    """The update of the last set that counts; 0 for none."""
    manifest = SetName(folder, LAST).manifest_path
    return Manifest.read(manifest).num_updates if manifest.exists() else 0


def whole_sets(folder: Path) -> None:
    """Every set that the last kill left is whole once the next start has recovered it."""
    recover(folder)
    for manifest in folder.glob("*.manifest.json"):
        CheckpointSet.open(manifest).whole()


def save_again_and_again(folder: Path) -> None:
    for number in range(updates_in(folder) + 1, MOST):
        shards = SHARDS if number % 2 else 1
        rows = ROWS // shards
        files = []
        for shard in range(shards):
            piece = {WEIGHT: Piece((ROWS,), (shard * rows,), (rows,))}
            layout = layout_entry(Layout(1, shards, shards), 0, shard, piece, None)
            state = {"model": {WEIGHT: torch.full((rows,), float(number))}, "layout": layout}
            files.append((FileName(STEMS[0], shard=shard if shards > 1 else None), state))
        save = Save(folder, STEMS, number, 1, float(number), Layout(1, shards, shards))
        commit(save, files, ALONE)


def saving(folder: Path) -> Work:
    def check() -> None:
        whole_sets(folder)
        weights = CheckpointSet.open(folder / f"{LAST}.pt").whole()["model"][WEIGHT]
        assert weights.min() == weights.max() == updates_in(folder)

    def act() -> None:
        save_again_and_again(folder)

    return Work(act, check, lambda: updates_in(folder), seconds=0.4)


def training(folder: Path) -> Work:
    data, run_folder = write_data(folder / "data"), folder / "run"

    def act() -> None:
        options = ("--max-update", MOST, "--save-interval-updates", 2, "--no-epoch-checkpoints",
                   "--keep-interval-updates", 2)  # fmt: skip
        sys.argv = ["fairseq-train", *training_arguments(data, run_folder, *options)]
        fairseq_train.cli_main()

    def check() -> None:
        whole_sets(run_folder)

    return Work(act, check, lambda: updates_in(run_folder), seconds=4.0)


def converting(folder: Path, checkpoint: Path) -> Work:
    dst, source = folder / "dst", digests(checkpoint.parent)
    expected: Dict[str, str] = {}

    def act() -> None:
        run(convert, checkpoint, dst, "--to", "metaseq", "--num-shards", 4, "--overwrite",
            "--data", checkpoint.parent)  # fmt: skip

    def check() -> None:
        assert digests(checkpoint.parent) == source, "the source has changed"
        if not expected:
            expected.update(digests(dst))
        whole = [
            path for path in (dst, *folder.glob("dst.*.old")) if path.is_dir() and digests(path)
        ]
        assert any(digests(path) == expected for path in whole), "no folder is whole"
        for path in folder.glob("dst.*"):  # what a kill leaves is the user's to remove
            if dst.exists():
                shutil.rmtree(path)
            elif path.name.endswith(".old"):
                path.rename(dst)

    return Work(act, check)


def preparing(folder: Path, corpus: Path) -> Work:
    dst, source = folder / "dst", corpus.read_bytes()
    expected: Dict[str, str] = {}

    def act() -> None:
        run(prepare, corpus, "--destdir", dst, "--vocab-size", 400, "--workers", 2)

    def check() -> None:
        assert corpus.read_bytes() == source, "the source has changed"
        if not (dst / "prepare.json").exists():
            return
        found = {name: digest for name, digest in digests(dst).items() if "/" not in name}
        expected.update({} if expected else found)
        assert found == expected, "the data folder is said to be whole, but is not"
        shutil.rmtree(dst)  # begin anew

    return Work(act, check)


def cleaning(folder: Path, corpus: Path) -> Work:
    dst, source = folder / "dst", corpus.read_bytes()
    expected: Dict[str, str] = {}

    def act() -> None:
        run(clean, corpus, dst, "--workers", 2)

    def check() -> None:
        assert corpus.read_bytes() == source, "the source has changed"
        if dst.exists():
            expected.update({} if expected else digests(dst))
            assert digests(dst) == expected, "the cleaned folder is there, but not whole"
        for path in folder.glob("dst*"):
            shutil.rmtree(path)

    return Work(act, check)


def quietly(act: Callable[[], object], log: Path) -> None:
    os.setsid()  # what is forked is killed with it
    with log.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        act()


def start(work: Work, log: Path) -> Any:
    process = multiprocessing.get_context("fork").Process(target=quietly, args=(work.act, log))
    process.start()
    return process


def kill(process: Any) -> None:
    """End ``process`` and what it forked, at once; returns when all have gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not come to its group yet, nor forked anything
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    with suppress(ProcessLookupError):
        while True:  # a worker that dies a moment later still has the lock that its parent took
            os.killpg(process.pid, 0)
            time.sleep(0.001)


def first(work: Work, log: Path) -> Work:
    """``work`` once done without a kill, with the time it took."""
    began = time.monotonic()
    process = start(work, log)
    if work.seconds:  # it never ends
        while work.committed() == 0:
            assert process.is_alive(), log.read_text()
            time.sleep(0.01)
        kill(process)
    process.join()
    assert work.seconds or process.exitcode == 0, log.read_text()
    work.check()
    return work._replace(seconds=work.seconds or time.monotonic() - began)


def kill_one(work: Work, delay: float, log: Path) -> bool:
    """Whether the process still ran after ``delay`` seconds; AssertionError where its kill lost something."""
    process = start(work, log)
    process.join(delay)
    before = work.committed()
    is_killed = process.is_alive()
    if is_killed:
        kill(process)
    process.join()
    assert is_killed or process.exitcode == 0, log.read_text()
    work.check()
    assert work.committed() >= before, "a set that counted is gone"
    return is_killed


def works(folder: Path) -> Dict[str, Work]:
    corpus = write_jsonl(folder / "corpus.jsonl", "\n".join(real_texts()).split("\n\n"))
    made: Dict[str, Work] = {}
    for name in SHARES:
        (folder / name).mkdir()
    made["train"] = first(training(folder / "train"), folder / "log")
    checkpoint = folder / "model" / f"{LAST}.pt"
    checkpoint.parent.mkdir()
    for path in (
        folder / "train" / "run" / checkpoint.name,
        folder / "train" / "data" / "dict.txt",
    ):
        shutil.copy(path, checkpoint.parent)
    made["save"] = first(saving(folder / "save"), folder / "log")
    made["convert"] = first(converting(folder / "convert", checkpoint), folder / "log")
    made["prepare"] = first(preparing(folder / "prepare", corpus), folder / "log")
    made["clean"] = first(cleaning(folder / "clean", corpus), folder / "log")
    return made


def report(
    killed: Counter, ended: Counter, made: Dict[str, Work], args: Any, minutes: float
) -> str:
    lines = [
        f"# {time.strftime('%Y-%m-%d')}, {sum(killed.values()):,} kills (`kill -9`), nothing lost",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"{minutes:.1f} minutes. The same seed gives the same order of works, but its delays are shares of times "
        "that are measured.",
        "",
        f"    python -m tests.kills --kills {args.kills} --minutes {args.minutes:g} --seed {args.seed} --folder …",
        "",
        "| work | kills | ended before | longest delay, s |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {killed[name]:,} | {ended[name]:,} | {made[name].seconds:.2f} |"
            for name in SHARES
        ),
        "",
        "After each kill the rule of its kind held: every set with a manifest is whole and none that counted is gone;",
        "sources have their bytes; a folder that is there is the whole result, and where `convert --overwrite` was",
        "killed, it is whole under its own name or that of the old one, `DST.….old` (`tests/kills.py`).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop then, whatever the count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, required=True, help="to be made, and left for a look"
    )
    parser.add_argument("--result", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    torch.set_num_threads(1)  # a forked process would wait for threads that it did not inherit
    logging.disable(logging.WARNING)  # of each save that is finished
    chance, began = random.Random(args.seed), time.monotonic()
    made = works(args.folder)
    order: List[str] = [name for name, share in SHARES.items() for _ in range(share)]
    killed: Counter = Counter()
    ended: Counter = Counter()
    while sum(killed.values()) < args.kills and time.monotonic() - began < 60 * args.minutes:
        name = chance.choice(order)
        delay = chance.random() * made[name].seconds
        is_killed = kill_one(made[name], delay, args.folder / "log")
        (killed if is_killed else ended)[name] += 1
    text = report(killed, ended, made, args, (time.monotonic() - began) / 60)
    print(text)  # noqa: T201
    if args.result is not None:
        args.result.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
