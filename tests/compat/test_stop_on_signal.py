"""SIGINT and SIGTERM in the middle of training: what is saved, what is said, and what goes on from it."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from fairseq.dataclass.configs import CheckpointConfig
from omegaconf import OmegaConf

from metaseq_plugin.compat import stop_on_signal
from tests.distributed.test_lost_ranks import LAYOUTS, at_update, send_myself
from tests.fairseq_runs import train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder
from tests.tasks.streaming_data import STREAMING, write_streaming_data

INT, TERM = signal.SIGINT, signal.SIGTERM
STATUS = {INT: 130, TERM: 143}
UPDATES = 14  # of 11 an epoch
OPTIONS = (
    "--max-update", UPDATES, "--save-interval-updates", 4, "--keep-interval-updates", 2,
    "--validate-interval-updates", 3, "--keep-best-checkpoints", 2,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("told") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    ended = train(data, folder, *OPTIONS)
    assert ended.status == 0, ended.output
    return folder


def at_forward(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """For ``prepare`` of one process: ``act`` after forward pass ``number``, a validation's counted."""
    return lambda: at_update(number, 0, act)(0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint*"))


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def updates_of(folder: Path) -> int:
    return int(state(folder)["optimizer_history"][-1]["num_updates"])


@pytest.mark.slow
# 4 is saved anyway, 3 is only validated, 11 is the epoch's end. Each validation is two forward passes.
@pytest.mark.parametrize(
    ("number", "forward", "stop", "saved"),
    [
        (INT, 2, 2, ["checkpoint_last"]),
        (TERM, 3, 3, ["checkpoint_last"]),
        (INT, 6, 4, ["checkpoint.best_loss", "checkpoint_1_4", "checkpoint_best", "checkpoint_last"]),
        (INT, 4, 3, ["checkpoint_last"]),  # while it validates
        (TERM, 7, 4, ["checkpoint.best_loss", "checkpoint_1_4", "checkpoint_best", "checkpoint_last"]),
        (TERM, 21, 11, None),
    ],
)  # fmt: skip
def test_the_run_that_goes_on_is_the_uninterrupted_one(
    data: Path, whole: Path, tmp_path: Path, number: Any, forward: int, stop: int, saved: Any
) -> None:
    run = tmp_path / "run"
    ended = train(data, run, *OPTIONS, prepare=at_forward(forward, send_myself(number)))
    assert ended.status == STATUS[number], ended.output
    assert (
        f"stopped by {number.name} after {stop} updates, which are saved in {run}" in ended.output
    )
    assert ended.last_line.startswith(f"    fairseq-train {data} --user-dir metaseq_plugin")
    assert "Traceback" not in ended.output
    assert updates_of(run) == stop
    stems = {name.split("_5.")[0].split(".pt")[0].split(".manifest")[0] for name in names(run)}
    assert saved is None or sorted(stems) == saved

    ended = train(data, run, *OPTIONS)
    assert ended.status == 0, ended.output
    assert f"(epoch {1 + stop // 11} @ {stop} updates)" in ended.output
    assert names(run) == names(whole)
    found, expected = state(run), state(whole)
    assert found["extra_state"]["best"] == expected["extra_state"]["best"]
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name
    for index, entry in expected["last_optimizer_state"]["state"].items():
        for key, tensor in entry.items():
            assert torch.equal(found["last_optimizer_state"]["state"][index][key], tensor), key


def test_accumulated_steps_are_finished(data: Path, tmp_path: Path) -> None:
    prepare = at_forward(4, send_myself(INT))  # the first batch of the second update of three
    ended = train(data, tmp_path, "--update-freq", 3, "--max-update", 9, prepare=prepare)
    assert ended.status == 130, ended.output
    assert updates_of(tmp_path) == 2
    assert state(tmp_path)["extra_state"]["train_iterator"]["iterations_in_epoch"] == 6


def test_in_a_save(data: Path, tmp_path: Path) -> None:
    """What is being saved is whole, and no update more is made."""

    def prepare() -> None:
        from metaseq_plugin.checkpoint import save

        commit = save.commit

        def told_meanwhile(*given: Any) -> None:
            os.kill(os.getpid(), TERM)
            commit(*given)

        save.commit = told_meanwhile  # type: ignore[assignment]

    ended = train(data, tmp_path, *OPTIONS, "--disable-validation", prepare=prepare)
    assert ended.status == 143, ended.output
    assert "after 4 updates" in ended.output
    assert updates_of(tmp_path) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "tp"))],
)
def test_ranks_stop_behind_the_same_update(data: Path, tmp_path: Path, layout: str) -> None:
    """Whichever of them is told, and whatever they hold of the model."""
    options = ("--max-update", 5, "--disable-validation", *LAYOUTS[layout])
    whole, parts = Recorder(tmp_path / "whole"), Recorder(tmp_path / "parts")
    train_ranks(2, data, tmp_path / "a", *options, prepare=whole)

    def prepare(rank: int) -> None:
        parts(rank)
        at_update(3, 1, send_myself(TERM))(rank)

    ended = train_ranks(2, data, tmp_path / "b", *options, prepare=prepare)
    assert [rank.status for rank in ended] == [143, 143], ended
    assert ended[0].output.count("stopped by SIGTERM after 3 updates") == 1
    assert "stopped" not in ended[1].output
    assert not any("Traceback" in rank.output for rank in ended)
    ended = train_ranks(2, data, tmp_path / "b", *options, prepare=parts)
    assert [rank.status for rank in ended] == [0, 0], ended
    assert [row["update"] for row in parts.rows()] == [1, 2, 3, 4, 5]
    assert [parts.rows(rank) for rank in (0, 1)] == [whole.rows(rank) for rank in (0, 1)]


def twice(number: signal.Signals) -> Callable[[], None]:
    def send() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, -TERM)])
def test_a_second_one_ends_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, status: int
) -> None:
    """SIGTERM kills the process as it stands; of a data worker, Python may then print what it lost."""
    monkeypatch.setattr(stop_on_signal, "SAME_SECONDS", 0.0)
    alone = ("--num-workers", 0) if number == TERM else ()
    ended = train(data, tmp_path, *OPTIONS, *alone, prepare=at_forward(2, twice(number)))
    assert ended.status == status, ended.output
    assert ended.output.count("ending after this update; another one ends at once") == 1
    assert "Traceback" not in ended.output
    assert names(tmp_path) == []


def test_two_within_a_moment_are_one(data: Path, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches a rank, and torchrun's own of it."""
    ended = train(data, tmp_path, *OPTIONS, prepare=at_forward(2, twice(INT)))
    assert ended.status == 130, ended.output
    assert updates_of(tmp_path) == 2


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, -TERM)])
def test_before_training_there_is_nothing_to_wait_for(
    data: Path, tmp_path: Path, number: Any, status: int
) -> None:
    def prepare() -> None:
        from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask

        OPTLanguageModelingTask.build_criterion = lambda *given: os.kill(os.getpid(), number)

    ended = train(data, tmp_path, *OPTIONS, prepare=prepare)
    assert ended.status == status, ended.output
    assert "Traceback" not in ended.output
    assert "ending after" not in ended.output


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, -TERM)])
def test_the_old_way(data: Path, tmp_path: Path, number: Any, status: int) -> None:
    prepare = at_forward(2, send_myself(number))
    ended = train(data, tmp_path, *OPTIONS, "--no-save-on-signal", prepare=prepare)
    assert ended.status == status, ended.output
    assert names(tmp_path) == []


@pytest.mark.parametrize("option", ["--no-save", "--no-last-checkpoints"])
def test_where_nothing_may_be_saved_it_says_so(data: Path, tmp_path: Path, option: str) -> None:
    ended = train(data, tmp_path, *OPTIONS, option, prepare=at_forward(2, send_myself(INT)))
    assert ended.status == 130, ended.output
    assert ended.last_line.endswith(
        f"stopped by SIGINT after 2 updates; nothing was saved ({option})."
    )
    assert names(tmp_path) == []


def test_a_last_update_is_the_end(data: Path, tmp_path: Path) -> None:
    prepare = at_forward(3, send_myself(INT))
    ended = train(data, tmp_path, "--max-update", 3, "--disable-validation", prepare=prepare)
    assert ended.status == 0, ended.output
    assert "done training" in ended.last_line


@pytest.mark.slow
def test_other_signals_are_left_alone(data: Path, tmp_path: Path) -> None:
    prepare = at_forward(2, send_myself(signal.SIGUSR1))
    assert train(data, tmp_path, *OPTIONS, prepare=prepare).status == -signal.SIGUSR1


def tell_the_group(number: signal.Signals) -> Callable[[], None]:
    """As a terminal, torchrun and SLURM do: this process, its workers, and nobody else of the tests."""

    def tell() -> None:
        kill = ["kill", "-s", number.name.removeprefix("SIG"), "--", f"-{os.getpgid(0)}"]
        subprocess.run(kill, check=True, start_new_session=True)

    return tell


@pytest.mark.slow
@pytest.mark.parametrize("number", [INT, TERM])
@pytest.mark.parametrize("task", ["binarised", "streaming"])
def test_workers_go_on_and_end_with_the_run(tmp_path: Path, task: str, number: Any) -> None:
    is_stream = task == "streaming"
    data = (write_streaming_data if is_stream else write_data)(tmp_path / "data")
    options = ("--num-workers", 2, "--max-update", 20, "--disable-validation")
    for stop in (3, 6):  # a run that is resumed forks its workers before it trains

        def prepare() -> None:
            os.setsid()
            at_update(3, 0, tell_the_group(number))(0)

        ended = train(
            data, tmp_path / "run", *options, *(STREAMING if is_stream else ()), prepare=prepare
        )
        assert ended.status == STATUS[number], ended.output
        assert f"stopped by {number.name} after {stop} updates" in ended.output
        assert "Traceback" not in ended.output


def options_of(**changed: Any) -> Any:
    """fairseq's options of checkpoints."""
    return OmegaConf.merge(CheckpointConfig(save_dir="runs/a"), changed)


def test_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/fairseq-train", "my data", "--lr", "1"])
    say = stop_on_signal.last_words
    assert say(2, options_of(), 7, False) == (
        "stopped by SIGINT after 7 updates, which are saved in runs/a. To go on, run the same command "
        "again:\n    fairseq-train 'my data' --lr 1"
    )
    anew = options_of(reset_optimizer=True, restore_file="x.pt")
    assert say(15, anew, 7, False).endswith("again, without --reset-optimizer and --restore-file.")
