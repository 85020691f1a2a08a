"""Tiny runs write their ledger: how they start, go on, validate, save, fail and end, each said with the right value."""

import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from metaseq_plugin.ledger.files import EVENTS, Ledger, read_ledger
from metaseq_plugin.storage.json_lines import Lines
from tests.distributed.test_lost_ranks import at_update, fail_as, send_myself
from tests.fairseq_runs import Ended, train, training_arguments, write_data
from tests.rank_runs import train_ranks

ALIKE = ("--log-format", "json", "--log-interval", 1, "--disable-validation")
LARGE = 100_000  # bytes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("recorded") / "data")


def act_at(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """For ``prepare``: ``act`` after forward pass ``number``."""
    return lambda: at_update(number, 0, act)(0)


def kinds(ledger: Ledger) -> list[str]:
    """In order, without that of the first update, which follows ``ready`` in every start that trains."""
    return [event["kind"] for event in ledger.events if event["kind"] != "first_update"]


def only(ledger: Ledger, kind: str) -> Any:
    (event,) = ledger.of(kind)
    return event


def logged(ended: Ended) -> list[dict[str, str]]:
    """fairseq's own JSON lines of updates."""
    lines = [line[line.index("{") :] for line in ended.output.splitlines() if '{"epoch"' in line]
    return [row for row in map(json.loads, lines) if "loss" in row]


def valid_lines(ended: Ended) -> list[dict[str, str]]:
    lines = [line[line.index("{") :] for line in ended.output.splitlines() if '{"epoch"' in line]
    return [row for row in map(json.loads, lines) if "valid_loss" in row]


def check_times(ledger: Ledger) -> None:
    """Accounts sum to the time from the process's begin to its end."""
    for start, end in zip(ledger.starts, ledger.of("end"), strict=True):
        assert sum(end["accounts"].values()) == pytest.approx(end["seconds"], rel=1e-3)
        assert end["seconds"] == pytest.approx(end["time"] - start["began"], rel=0.01, abs=0.02)


FIRST = (
    "--max-update", 7, "--ledger-interval", 3, "--log-format", "json", "--log-interval", 1, "--clip-norm", 0.35,
    "--save-interval-updates", 4,
)  # fmt: skip


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run of 7 updates, and what it printed."""
    run = tmp_path_factory.mktemp("first")
    ended = train(data, run, *FIRST)
    assert ended.status == 0, ended.output
    return run, ended


def test_the_events_of_a_run(data: Path, first: tuple[Path, Ended]) -> None:
    run, _ = first
    ledger = read_ledger(run)
    assert kinds(ledger) == ["start", "ready", "valid", "save", "valid", "save", "end"]
    start, end = ledger.starts[0], only(ledger, "end")
    assert (start["start"], start["format"], start["first_update"]) == (0, 1, 0)
    assert start["command"].startswith(f"fairseq-train {data} --user-dir metaseq_plugin")
    assert start["options"]["optimization.max_update"] == 7
    assert (start["layout"]["ranks"], start["hardware"]["devices"]) == (1, 1)
    assert (start["num_parameters"], start["tokens_per_sample"]) == (40_032, 32)
    assert start["flops_per_token"] == 6 * (2 * 12 * 16**2 + 40 * 16) + 12 * 2 * 16 * 32
    assert (start["data"]["path"], start["data"]["files"]) == (str(data), 5)
    at_4, at_7 = ledger.of("save")
    assert (at_4["update"], at_7["update"]) == (4, 7)
    assert at_4["names"] == ["checkpoint_1_4", "checkpoint_best", "checkpoint_last"]
    assert at_4["bytes"] == (run / "checkpoint_1_4.pt").stat().st_size
    assert at_7["bytes"] == (run / "checkpoint_last.pt").stat().st_size
    assert 0 < at_4["stall"] == at_4["seconds"] < end["accounts"]["saving"]
    assert (end["reason"], end["update"], end["done"]) == ("finished", 7, 7)
    check_times(ledger)


def test_the_numbers_are_those_that_fairseq_logs(first: tuple[Path, Ended]) -> None:
    run, ended = first
    ledger, told = read_ledger(run), logged(ended)
    assert [(row["update"], row["updates"]) for row in ledger.updates] == [(3, 3), (6, 3), (7, 1)]
    for row in ledger.updates:
        window = told[row["update"] - row["updates"] : row["update"]]
        tokens = [float(one["wpb"]) for one in window]
        loss = sum(float(one["loss"]) * n for one, n in zip(window, tokens)) / sum(tokens)
        assert row["loss"] == pytest.approx(loss, abs=1e-3)  # fairseq's has three digits
        assert row["ntokens"] == sum(tokens)
        for name in ("gnorm", "clip"):
            mean = sum(float(one[name]) for one in window) / len(window)
            assert row[name] == pytest.approx(mean, abs=1e-3)
        assert row["lr"] == float(window[-1]["lr"])
        parts = ("computing", "waiting", "saving", "validating", "rewinding")
        assert sum(row[part] for part in parts) == pytest.approx(row["seconds"], rel=1e-3)
    losses = [float(row["valid_loss"]) for row in valid_lines(ended)]
    assert [event["loss"] for event in ledger.of("valid")] == losses


def test_a_run_that_goes_on_says_what_changed(
    data: Path, first: tuple[Path, Ended], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(first[0], run)
    before = read_ledger(run)
    ended = train(data, run, "--max-update", 9, "--lr", 0.02, "--disable-validation")
    assert ended.status == 0, ended.output
    both = read_ledger(run)
    assert both.events[: len(before.events)] == before.events
    assert kinds(both)[len(kinds(before)) :] == ["start", "ready", "resume", "lr", "save", "end"]
    resume = only(both, "resume")
    assert (resume["start"], resume["update"]) == (1, 7)
    assert resume["from"] == str(run / "checkpoint_last.pt")
    changed = resume["changed"]["options"]
    assert changed["optimization.lr"] == [[0.01], [0.02]]
    assert changed["optimization.max_update"] == [7, 9]
    assert set(resume["changed"]) == {"options"}
    assert only(both, "lr")["changed"] == {"optimization.lr": [[0.01], [0.02]]}
    assert "before" not in both.starts[1]
    assert [end["done"] for end in both.of("end")] == [7, 2]
    assert both.tally is not None
    assert (both.tally.first_update, both.tally.update, both.tally.has_ended) == (7, 9, 1)
    check_times(both)
    assert train(data, run, "--max-update", 9).status == 0
    assert (
        read_ledger(run).of("end")[-1]["reason"].startswith("nothing to do: the run has made its 9")
    )


def test_a_run_that_is_told_to_stop(data: Path, tmp_path: Path) -> None:
    prepare = act_at(3, send_myself(signal.SIGTERM))
    ended = train(data, tmp_path, *ALIKE, "--max-update", 9, prepare=prepare)
    assert ended.status == 143, ended.output
    ledger = read_ledger(tmp_path)
    assert kinds(ledger) == ["start", "ready", "save", "signal", "end"]
    assert only(ledger, "signal")["name"] == "SIGTERM"
    assert (only(ledger, "end")["reason"], only(ledger, "end")["update"]) == (
        "stopped by SIGTERM",
        3,
    )
    assert [row["update"] for row in ledger.updates] == [3]


def test_a_run_that_fails_says_why(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = train(
        data, run, *ALIKE, "--max-update", 9, prepare=act_at(3, fail_as(RuntimeError("a bug")))
    )
    assert ended.status == 1
    assert only(read_ledger(run), "end")["reason"] == "RuntimeError: a bug"


@pytest.mark.slow
def test_a_run_that_is_refused_is_none_unless_it_was_one_before(data: Path, tmp_path: Path) -> None:
    mistake = (*ALIKE, "--max-update", 4, "--tokens-per-sample", 4096)
    assert "`--tokens-per-sample` must be at most" in train(data, tmp_path, *mistake).output
    assert not (tmp_path / "ledger").exists()
    assert train(data, tmp_path, *ALIKE, "--max-update", 2).status == 0
    before = read_ledger(tmp_path)
    assert train(data, tmp_path, *mistake).status == 2
    ledger = read_ledger(tmp_path)
    assert kinds(ledger) == [*kinds(before), "start", "end"]
    end = ledger.of("end")[-1]
    assert end["reason"].startswith("`--tokens-per-sample` must be at most")
    assert end["accounts"]["starting"] == pytest.approx(end["seconds"], rel=1e-3)


@pytest.mark.slow
def test_a_run_that_is_killed_is_known_to_the_update(data: Path, tmp_path: Path) -> None:
    options = (*ALIKE, "--max-update", 9, "--save-interval-updates", 2)
    prepare = act_at(6, send_myself(signal.SIGKILL))  # amid the sixth
    assert train(data, tmp_path, *options, prepare=prepare).status == -signal.SIGKILL
    killed = read_ledger(tmp_path)
    assert kinds(killed) == ["start", "ready", "save", "save"]
    assert killed.tally is not None
    assert (killed.tally.update, killed.tally.done, killed.tally.has_ended) == (5, 5, 0)
    assert train(data, tmp_path, *options).status == 0
    ledger = read_ledger(tmp_path)
    before = ledger.starts[1]["before"]
    assert (before["start"], before["update"], before["done"]) == (0, 5, 5)
    assert sum(before["accounts"].values()) == pytest.approx(
        before["seen"] - ledger.starts[0]["began"], rel=1e-3
    )
    assert ledger.starts[1]["began"] >= before["seen"]
    # Done = kept + lost: 5 and 5 were done, of which update 5 was lost, and the run is at 9.
    assert only(ledger, "resume")["update"] == 4
    assert (only(ledger, "end")["done"], only(ledger, "end")["update"]) == (5, 9)


def overflow_and_run_out() -> None:
    """In update 3 the gradients overflow; the batch after it finds no memory."""
    at_update(4, 0, fail_as(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")))(0)
    from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

    check, calls = DynamicLossScaler.check_overflow, [0]

    def overflowing(scaler: Any, grad_norm: Any) -> None:
        calls[0] += 1
        check(scaler, math.inf if calls[0] == 3 else grad_norm)

    DynamicLossScaler.check_overflow = overflowing


def test_updates_that_were_not_made(data: Path, tmp_path: Path) -> None:
    ended = train(data, tmp_path, *ALIKE, "--fp16", "--max-update", 4, prepare=overflow_and_run_out)
    assert ended.status == 0, ended.output
    ledger = read_ledger(tmp_path)
    assert kinds(ledger) == [
        "start", "ready", "overflow", "loss_scale", "out_of_memory", "skipped", "save", "end",
    ]  # fmt: skip
    assert (only(ledger, "overflow")["update"], only(ledger, "overflow")["loss_scale"]) == (2, 128)
    assert (only(ledger, "loss_scale")["before"], only(ledger, "loss_scale")["now"]) == (128, 64)
    assert only(ledger, "skipped")["why"] == "out of memory"
    assert (only(ledger, "end")["done"], only(ledger, "end")["update"]) == (4, 4)
    assert ledger.updates[0]["updates"] == 4
    assert ledger.updates[0]["loss_scale"] == 64


def test_a_rank_that_is_lost(data: Path, tmp_path: Path) -> None:
    prepare = at_update(3, 1, send_myself(signal.SIGKILL))
    options = (
        "--max-update",
        50,
        "--disable-validation",
        "--num-workers",
        0,
        "--save-interval-updates",
        2,
    )
    train_ranks(2, data, tmp_path / "run", *options, prepare=prepare)
    ledger = read_ledger(tmp_path / "run")
    assert kinds(ledger) == ["start", "ready", "save", "lost_rank", "end"]
    assert only(ledger, "end")["reason"] == only(ledger, "lost_rank")["reason"]
    assert only(ledger, "end")["reason"].startswith("Another rank of this run ended")
    assert only(ledger, "start")["layout"]["data_parallel_size"] == 2
    assert (only(ledger, "end")["update"], only(ledger, "end")["done"]) == (2, 2)


@pytest.mark.parametrize("option", ["--no-ledger", "--no-save"])
def test_no_ledger(data: Path, tmp_path: Path, option: str) -> None:
    ended = train(data, tmp_path, *ALIKE, "--max-update", 2, option)
    assert ended.status == 0, ended.output
    assert not (tmp_path / "ledger").exists()


@pytest.mark.slow
def test_what_no_ledger_can_be_written_with_is_refused(data: Path, tmp_path: Path) -> None:
    def refused(*options: Any) -> str:
        ended = train(data, tmp_path, *ALIKE, "--max-update", 2, *options)
        assert ended.status == 2, ended.output
        assert "Traceback" not in ended.output
        assert not list(tmp_path.glob("checkpoint*"))
        return ended.last_line

    assert "`--ledger-interval` must be at least 1, but is 0" in refused("--ledger-interval", 0)
    (tmp_path / "ledger").write_text("a file")
    assert (
        f"`--save-dir` must be a folder whose ledger can be written, but {tmp_path / 'ledger'}"
        in refused()
    )
    (tmp_path / "ledger").unlink()
    with Lines(tmp_path / "ledger" / EVENTS) as lines:
        lines.append({"time": 1, "kind": "start", "start": 0, "format": 2}, durable=False)
    before = (tmp_path / "ledger" / EVENTS).read_bytes()
    assert f"{tmp_path / 'ledger'} is of 2: a later version wrote it" in refused()
    assert (tmp_path / "ledger" / EVENTS).read_bytes() == before
    ended = train(data, tmp_path, *ALIKE, "--max-update", 2, "--no-ledger")
    assert ended.status == 0, ended.output


def full_from(first: int, last: int, then: Callable[[], None]) -> Callable[[], None]:
    """For ``prepare``: the ledger's file of events does not grow from update ``first`` to ``last``; then ``then``.

    Each update is three forward passes, two of them of its validation.
    """

    def prepare() -> None:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        at_update(
            3 * first - 2,
            0,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE, unlimited[1])),
        )(0)

        def end() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            then()

        at_update(3 * last - 2, 0, end)(0)

    return prepare


def fill(run: Path) -> None:
    """A ledger that has LARGE bytes, more than anything else that the run writes until it saves."""
    with Lines(run / "ledger" / EVENTS) as lines:
        lines.append({"time": 1, "kind": "note", "text": "x" * LARGE}, durable=False)


VALIDATING = ("--validate-interval-updates", 1, "--ledger-interval", 2, "--max-update", 9)


def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(data: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    ended = train(data, tmp_path, *VALIDATING, prepare=full_from(3, 7, lambda: None))
    assert ended.status == 0, ended.output
    assert ended.output.count("cannot be written (File too large). Training goes on") == 1
    ledger = read_ledger(tmp_path)
    assert kinds(ledger) == ["note", "start", "ready", *["valid"] * 9, "save", "end"]
    assert [event["update"] for event in ledger.of("valid")] == list(range(1, 10))
    assert [row["update"] for row in ledger.updates] == [2, 4, 6, 8, 9]
    assert ledger.tally is not None
    assert ledger.tally.unwritten == 0
    assert ledger.tally.has_ended == 1


@pytest.mark.slow
def test_what_a_killed_run_could_not_write_is_said_by_the_next(data: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    prepare = full_from(3, 7, send_myself(signal.SIGKILL))
    assert train(data, tmp_path, *VALIDATING, prepare=prepare).status == -signal.SIGKILL
    assert train(data, tmp_path, *ALIKE, "--max-update", 2).status == 0
    ledger = read_ledger(tmp_path)
    assert kinds(ledger) == [
        "note", "start", "ready", "valid", "valid", "start", "missing", "ready", "save", "end",
    ]  # fmt: skip
    # Validations at 3, 4, 5 and 6; and the lines of numbers of 4 and 6, behind them.
    assert only(ledger, "missing")["lines"] == 6
    assert only(ledger, "missing")["reason"] == "start 0 ended before they could be written"
    before = ledger.starts[1]["before"]
    assert (before["update"], before["done"]) == (6, 6)


@pytest.mark.slow
def test_the_second_run_of_a_folder_leaves_the_ledger_alone(data: Path, tmp_path: Path) -> None:
    words = training_arguments(data, tmp_path, *ALIKE, "--max-update", 2)
    second: list[Any] = []

    def start_another() -> None:
        command = [str(Path(sys.executable).with_name("fairseq-train")), *words]
        second.append(subprocess.run(command, capture_output=True, text=True))
        (tmp_path / "second.txt").write_text(f"{second[0].returncode} {second[0].stderr}")

    ended = train(data, tmp_path, *ALIKE, "--max-update", 2, prepare=act_at(2, start_another))
    assert ended.status == 0, ended.output
    said = (tmp_path / "second.txt").read_text()
    assert said.startswith("2 ")
    assert "must be of one run at a time" in said
    assert kinds(read_ledger(tmp_path)) == ["start", "ready", "save", "end"]
