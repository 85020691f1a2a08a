"""Whole runs of ``metaseq eval``: killed by a signal and resumed, and on ranks as torchrun starts them."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import pytest

from metaseq_plugin import cli
from metaseq_plugin.evaluate import command
from metaseq_plugin.evaluate.results import items_of, read_results
from tests.data.trained import write_jsonl
from tests.evaluate.lookalike import ROWS, FakeModel, Vowels, register, write_data
from tests.fairseq_runs import train
from tests.rank_runs import fork_ranks, torchrun_environment

pytestmark = pytest.mark.slow
FORK: Any = multiprocessing.get_context("fork")
SECONDS = 240.0
SMALL = ("--decoder-layers", 2, "--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32,
         "--decoder-attention-heads", 2, "--tokens-per-sample", 64)  # fmt: skip
WORDS = ("tiny-pairs", "tiny-texts", "--scorer", "x", "--data", "sets", "--batch-tokens", "60")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "read_scorer", lambda text: Vowels())
    write_data(tmp_path / "sets")
    return tmp_path


@pytest.fixture
def trained(home: Path) -> Path:
    """A run folder of a tiny model."""
    texts = [f"{row['more']}; {row['less']}." for row in ROWS]
    write_jsonl(home / "corpus.jsonl", texts * 4)
    assert cli.main(["prepare", "corpus.jsonl", "--destdir", "data", "--vocab-size", "300"]) == 0
    ended = train(
        home / "data", home / "runs/a", "--arch", "opt", *SMALL, "--max-update", 20,
        "--no-epoch-checkpoints", "--valid-subset", "valid",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    return home / "runs/a"


def child(words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    os._exit(cli.main(["eval", *words]))


def start(words: Sequence[str], log: Path) -> Any:
    process = FORK.Process(target=child, args=(words, log, {}))
    process.start()
    return process


def finished(process: Any, log: Path) -> int:
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        pytest.fail(f"did not end within {SECONDS} s\n{log.read_text()}")
    return int(process.exitcode)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(path: Path, number: int, process: Any) -> None:
    end = time.monotonic() + SECONDS
    while lines_in(path) < number:
        assert process.is_alive(), "it ended before it was stopped"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_twice_and_resumed_a_real_model_leaves_the_same_bytes(trained: Path) -> None:
    whole = (*WORDS, "--path", "runs/a", "--output", "whole.json")
    log = Path("log")
    assert finished(start(whole, log), log) == 0, log.read_text()
    words = (*WORDS, "--path", "runs/a")
    output = trained / "eval/tiny-pairs+tiny-texts.json"
    for signum, number in ((signal.SIGKILL, 4), (signal.SIGTERM, 30)):
        process = start(words, log)
        wait_for_lines(items_of(output), number, process)
        os.kill(process.pid, signum)
        assert finished(process, log) == -signum, log.read_text()
        assert not output.exists()
    assert lines_in(items_of(output)) < 1 + 2 * len(ROWS)
    assert finished(start(words, log), log) == 0, log.read_text()
    assert output.read_bytes() == Path("whole.json").read_bytes()
    assert items_of(output).read_bytes() == Path("whole.items.jsonl").read_bytes()
    found = read_results(output)
    assert found.tasks["tiny-texts"].n == len(ROWS)


class LostModel(FakeModel):
    """In rank 1 it takes the process down at the second chunk."""

    def answer(self, requests: Any) -> Any:
        if self.asked and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(requests)


def on_ranks(words: Sequence[str]) -> tuple[list[int], list[str]]:
    logs = [Path(f"log{rank}") for rank in range(2)]

    def run(rank: int, port: int) -> None:
        child(words, logs[rank], torchrun_environment(rank, 2, port))

    _store, processes = fork_ranks(2, run)
    return [finished(*one) for one in zip(processes, logs)], [log.read_text() for log in logs]


def test_two_ranks_leave_the_bytes_of_one(trained: Path) -> None:
    words = (*WORDS, "--path", "runs/a")
    log = Path("log")
    assert finished(start((*words, "--output", "whole.json"), log), log) == 0, log.read_text()
    statuses, said = on_ranks((*words, "--output", "out.json"))
    assert statuses == [0, 0], said
    assert Path("out.json").read_bytes() == Path("whole.json").read_bytes()
    assert Path("out.items.jsonl").read_bytes() == Path("whole.items.jsonl").read_bytes()
    assert "published" in said[0]
    assert "published" not in said[1]
    assert not list(Path().glob("*rank*"))


def test_a_rank_that_is_lost_is_told_and_what_it_did_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "model-hf").mkdir()
    (home / "model-hf/config.json").write_text("{}")
    monkeypatch.setattr(command, "open_model", lambda args: LostModel())
    words = (*WORDS, "--path", "model-hf", "--output", "out.json")
    statuses, said = on_ranks(words)
    assert statuses == [1, -signal.SIGKILL], said
    assert said[0].splitlines()[-1] == (
        "metaseq eval: error: Another rank of this run ended, so this one must; see its output for the reason."
    )
    assert lines_in(Path("out.items.rank1.jsonl")) > 1
    assert cli.main(["eval", *words]) == 0
    assert read_results(Path("out.json")).tasks["tiny-texts"].n == len(ROWS)
    assert not list(Path().glob("out*rank*"))
