"""Parts of an agent, each by itself: turns, the lock of a former start, words, names of events."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from metaseq_plugin.checkpoint import run_lock
from metaseq_plugin.checkpoint.run_lock import LOCK_FILE
from metaseq_plugin.launch.jobs import lock, turn
from metaseq_plugin.launch.jobs.agent import Agent, starts_of_a_local_job
from metaseq_plugin.launch.jobs.place import Place
from metaseq_plugin.launch.jobs.ranks import Ranks, words
from metaseq_plugin.launch.jobs.told import Told
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Survival

LAUNCH = Launch(
    RunSpec("data", Path("runs/a"), {"lr": 0.1, "restore-file": "first.pt"}),
    Resources("local", 1, 4, uses_gpus=False, cpus_per_rank=3),
    Survival(restore_file="start.pt"),
)
PLACE = Place("local", "7", 7, 0, ("here",), 0)


def test_the_restore_file_of_survival_comes_last_and_so_counts() -> None:
    assert words(LAUNCH)[-2:] == ["--restore-file", "start.pt"]
    without = replace(LAUNCH, survival=Survival())
    assert words(without) == LAUNCH.spec.words()


def fake_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fairseq-train that prints what it was told, and waits."""
    text = "import json, os, sys, time\nprint(json.dumps([sys.argv[1:], dict(os.environ)]), flush=True)\ntime.sleep(60)\n"
    (folder / "fairseq-train").write_text(text)
    monkeypatch.setattr("metaseq_plugin.launch.jobs.ranks.program", lambda name: str(folder / name))


def test_ranks_know_their_place_and_are_killed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(tmp_path, monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch = replace(LAUNCH, spec=replace(LAUNCH.spec, save_dir=tmp_path / "run"))
    place = replace(PLACE, executor="local", node=1, hosts=("a", "b"))
    launch = replace(launch, resources=replace(launch.resources, nodes=2, ranks_per_node=2))
    ranks = Ranks(launch, place, 5, tmp_path / "progress")
    assert ranks.numbers == [2, 3]
    told = []
    for log in ranks.logs:
        while not log.read_text().endswith("\n"):
            assert not ranks.have_ended
        told.append(json.loads(log.read_text())[1])
    assert [log.name for log in ranks.logs] == ["rank-2.log", "rank-3.log"]
    names = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "OMP_NUM_THREADS",
    )
    assert [told[0][name] for name in names] == ["2", "0", "4", "2", "127.0.0.1", "3"]
    assert [told[1][name] for name in names] == ["3", "1", "4", "2", "127.0.0.1", "3"]
    assert told[0]["MASTER_PORT"] == str(place.ports(5)[0])
    assert told[0]["SLURM_RESTART_COUNT"] == "6"
    assert told[0]["METASEQ_PROGRESS_FILE"] == str(tmp_path / "progress")
    ranks.signal(signal.SIGUSR2)  # which ranks do not take
    assert ranks.statuses() == [None, None]
    ranks.kill()
    assert ranks.statuses() == [-9, -9]


def test_torchrun_is_one_process_that_knows_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(tmp_path, monkeypatch)
    (tmp_path / "fairseq-train").rename(tmp_path / "torchrun")
    spec, resources = replace(LAUNCH.spec, save_dir=tmp_path / "run"), LAUNCH.resources
    launch = replace(LAUNCH, spec=spec, resources=replace(resources, launcher="torchrun"))
    ranks = Ranks(launch, PLACE, 0, tmp_path / "progress")
    assert ranks.numbers == [0]
    while not ranks.logs[0].read_text().endswith("\n"):
        assert not ranks.have_ended
    ranks.kill()
    asked, variables = json.loads(ranks.logs[0].read_text())
    assert asked[:5] == [
        "--nnodes=1", "--node-rank=0", "--nproc-per-node=4", "--master-addr=127.0.0.1",
        f"--master-port={PLACE.ports(0)[0]}",
    ]  # fmt: skip
    assert asked[5:] == [str(tmp_path / "fairseq-train"), *words(launch)]
    assert "RANK" not in variables


@pytest.mark.slow
def test_a_child_ends_with_its_parent() -> None:
    parent = """
import subprocess, sys, time
from metaseq_plugin.launch.jobs.ranks import child_setup
import signal
child = subprocess.Popen(["sleep", "60"], start_new_session=True, preexec_fn=child_setup(signal.SIGKILL))
print(child.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert run_lock.process_start(process.pid) is None
    deadline = time.monotonic() + 30.0
    while run_lock.process_start(child) is not None:
        assert time.monotonic() < deadline, "the child lives"
        time.sleep(0.01)


def test_signals_are_kept_in_order_and_handlers_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with Told() as told:
        assert not told
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.received == [signal.SIGUSR2, signal.SIGTERM]
        assert told.name == "SIGUSR2"
        assert told.to_end
    assert signal.getsignal(signal.SIGUSR2) == before


def test_submitit_starts_a_local_job_six_times_and_an_agent_counts_them() -> None:
    assert starts_of_a_local_job() == 6
    again = Agent(LAUNCH, b"secret").checkpoint()
    assert again.function.starts == 1
    assert again.function.launch == LAUNCH
    assert "secret" not in repr(Agent(LAUNCH, b"secret"))


def test_a_slot_is_one_jobs_at_a_time(tmp_path: Path) -> None:
    queue = turn.Queue(tmp_path, max_jobs=2)
    with (tmp_path / "slot-0").open("a") as first, (tmp_path / "slot-1").open("a") as second:
        with queue.turn():
            free = [turn.is_locked_by_us(slot.fileno()) for slot in (first, second)]
            assert free == [False, True]
        assert turn.is_locked_by_us(first.fileno())


def test_a_job_after_one_that_did_not_finish_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "outcome_path", lambda job: tmp_path / job)
    over = subprocess.Popen(["true"])
    over.wait()
    job = str(over.pid)
    assert turn.Queue(tmp_path, after=(job,)).failed() == job
    turn.note(job, "waits")
    assert turn.Queue(tmp_path, after=(job,)).failed() == job
    turn.note(job, turn.DONE)
    assert turn.Queue(tmp_path, after=(job,)).failed() is None


@pytest.mark.slow
def test_a_former_start_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    lock.wait_until_free(tmp_path)
    stream, held = run_lock.take(path)
    code = (
        "import sys; from pathlib import Path; from metaseq_plugin.launch.jobs.lock import wait_until_free\n"
        "wait_until_free(Path(sys.argv[1]), patience=60.0); print('free')"
    )
    waiting = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.0)
    held.close()
    stream.close()
    assert waiting.communicate(timeout=120)[0].strip() == b"free"
