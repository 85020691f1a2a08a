"""scripts/slurm_cluster.py brings a SLURM up and down, harmlessly twice, and submitit finds it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
import submitit

import scripts.slurm_cluster as script
from scripts.slurm_cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]


def call(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts/slurm_cluster.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_step_runs_on_both_nodes(cluster: Cluster) -> None:
    script_text = "echo $SLURMD_NODENAME $SLURM_PROCID"
    lines = run("srun", "-N", "2", "--label", "bash", "-c", script_text).splitlines()
    assert sorted(lines) == ["0: n1 0", "1: n2 1"]


def test_sacct_knows_how_a_batch_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = run("sbatch", "--parsable", "-o", str(output), "--wrap", "echo done; exit 3").strip()
    books = ("sacct", "-n", "-X", "-P", "-j", job, "--format=State,ExitCode")
    assert script.wait_until(lambda: run(*books).startswith("FAILED"), 30)
    assert run(*books) == "FAILED|3:0\n"
    assert output.read_text() == "done\n"


def test_submitit_picks_slurm_by_itself_and_returns_a_result(
    cluster: Cluster, tmp_path: Path
) -> None:
    executor = submitit.AutoExecutor(folder=tmp_path)
    assert executor.cluster == "slurm"
    executor.update_parameters(timeout_min=5, cpus_per_task=1)
    job = executor.submit(pow, 3, 4)
    assert job.result() == 81
    books = ("sacct", "-n", "-X", "-P", "-j", job.job_id, "--format=State")
    # The result is there before the job ends, and the books are written after.
    assert script.wait_until(lambda: run(*books).strip() not in ("", "PENDING", "RUNNING"), 60)
    assert run(*books).strip() == "COMPLETED"


def test_every_port_is_of_the_loopback(cluster: Cluster) -> None:
    mine = {cluster.process(daemon.name) for daemon in cluster.daemons()}
    sockets = {f"socket:[{number}]" for number in listening_elsewhere()}
    for process in mine:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            assert os.readlink(descriptor) not in sockets, f"process {process}"


def listening_elsewhere() -> set[str]:
    """Inodes of TCP sockets that listen on any but 127.0.0.1, of proc(5)'s net/tcp and net/tcp6."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and not fields[1].startswith("0100007F:"):
                found.add(fields[9])
    return found


def processes(folder: Path) -> list[str]:
    """Which process each daemon is; sinfo's lines behind them come in any order."""
    return [line for line in call("status", folder).stdout.splitlines() if " process " in line]


@pytest.mark.slow
def test_up_and_down_are_harmless_twice(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    if script.what_is_missing():
        pytest.skip(f"a SLURM cannot be brought up: {script.what_is_missing()}")
    try:
        first = call("up", folder)
        assert first.returncode == 0, first.stderr
        assert first.stdout == f"export SLURM_CONF={folder}/slurm.conf\n"
        before = processes(folder)
        assert len(before) == 6
        assert call("up", folder).stdout == first.stdout == call("env", folder).stdout
        assert processes(folder) == before
        job = subprocess.run(
            ["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "sleep 1000"], check=True, capture_output=True,
            text=True, env=Cluster(folder).environment(),
        ).stdout.strip()  # fmt: skip
        assert job in call("status", folder).stdout
    finally:
        down = call("down", folder)
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "")
    assert call("down", folder).returncode == 0
    assert call("status", folder).stdout.count(" down\n") == 6
    assert not Cluster(folder).step_processes()


def missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PROGRAMS", ("sh", "slurmctld-of-nowhere"))


def another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PROGRAMS", ("sh",))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (
            missing_program,
            "slurmctld-of-nowhere must be installed, but cannot be found. `apt-get install --no-install-recommends "
            "slurm-wlm slurmdbd munge mariadb-server` does it.",
        ),
        (another_user, "slurmd must be started by root, but this is another user. Call it with sudo."),
    ],
)  # fmt: skip
def test_up_says_what_it_lacks(
    break_it: Callable[[pytest.MonkeyPatch], None], sentence: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    break_it(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        Cluster(tmp_path / "c").up()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"slurm_cluster: error: {sentence}\n"
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("name", "rule"),
    [("x" * 100, "at most 94 characters"), ("a b", "letters, digits and any of /._+-")],
)
def test_a_folder_that_slurm_cannot_have_is_refused(
    name: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "what_is_missing", lambda: None)
    with pytest.raises(SystemExit) as ended:
        Cluster(tmp_path / name).up()
    assert ended.value.code == 2
    assert (
        f"DIR must have a path of {rule}, but is {tmp_path / name}. Set " in capsys.readouterr().err
    )
    assert not (tmp_path / name).exists()


def test_env_of_no_cluster_is_refused(tmp_path: Path) -> None:
    done = call("env", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"slurm_cluster: error: DIR must be of a cluster, but {tmp_path} has no slurm.conf. "
        f"`up {tmp_path}` makes one.\n"
    )
