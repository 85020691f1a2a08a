"""Which runs of a sweep are launched, in which batches, after which jobs; and three real ones on this machine."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Sequence

import pytest

from metaseq_plugin import cli
from metaseq_plugin.launch.folders.events import read_events
from metaseq_plugin.launch.folders.status import state_of
from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.launch.sweep import launching
from tests.fairseq_runs import write_data
from tests.launch.sweep.conftest import Write

GRID = """\
base: opt_8m
data: data
save_dir: runs
resources: {ranks_per_node: 2, executor: local}
options: {batch-tokens: 128K}
grid: {seed: [1, 2, 3, 4]}
"""
STAGES = """\
base: opt_8m
data: data
save_dir: runs
resources: {ranks_per_node: 2, executor: local}
stages:
  first: {grid: {seed: [1, 2]}}
  each: {after: first, start: each}
  all: {after: first, grid: {seed: [3, 4]}}
  best: {after: first, start: best}
"""


TINY_SWEEP = """\
data: data
save_dir: runs
resources: {ranks_per_node: 1, executor: local, time: 10}
options:
  arch: opt
  decoder-layers: 2
  decoder-embed-dim: 16
  decoder-attention-heads: 2
  tokens-per-sample: 32
  batch-size: 4
  max-update: 3
  lr: 0.01
  criterion: chunked_cross_entropy
  optimizer: adamw
  log-format: json
  log-interval: 1
grid: {seed: [1, 2, 3]}
"""


@dataclass
class Cluster:
    """In the place of jobs: what was submitted, and the state of each run by its folder's name."""

    states: dict[str, str] = field(default_factory=dict)
    submitted: list[tuple[list[str], Optional[int], tuple[str, ...]]] = field(default_factory=list)

    def states_of(self, folders: Sequence[Path]) -> dict[Path, str]:
        return {folder: self.states.get(folder.name, "new") for folder in folders}

    def submit(
        self, launches: Sequence[Launch], *, max_jobs: Optional[int], after: Sequence[str]
    ) -> list[str]:
        names = [launch.spec.name for launch in launches]
        assert all((launch.spec.save_dir / "launch/run.json").is_file() for launch in launches)
        self.submitted.append((names, max_jobs, tuple(after)))
        self.states.update(dict.fromkeys(names, "queued"))
        return [f"job-{name}" for name in names]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(launching, "states_of", cluster.states_of)
    monkeypatch.setattr(launching, "submit", cluster.submit)
    monkeypatch.setattr(launching, "job_of", lambda folder: f"job-{folder.name}")
    return cluster


def launch(*arguments: Any) -> int:
    return cli.main(["launch", "sweep.yaml", *map(str, arguments)])


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ([], ["s1"]),
        (["--only", "missing"], ["s1"]),
        (["--only", "failed"], ["s2"]),
        (["--only", "all"], ["s1", "s2", "s4"]),
    ],
)
def test_runs_are_chosen_by_their_state(
    write: Write, cluster: Cluster, only: list[str], names: list[str]
) -> None:
    write(GRID)
    cluster.states.update(s2="failed", s3="running", s4="finished")
    assert launch("--max-jobs", 3, *only) == 0
    assert cluster.submitted == [(names, 3, ())]


@pytest.mark.parametrize("state", ["failed", "stopped", "gave_up"])
def test_what_ended_before_its_end_is_launched_again(
    write: Write, cluster: Cluster, state: str
) -> None:
    write(GRID)
    cluster.states.update(s1=state, s2="finished", s3="queued")
    launch("--only", "failed")
    assert [names for names, _, _ in cluster.submitted] == [["s1"]]


def test_a_second_launch_finds_nothing_to_do(
    write: Write, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write(GRID)
    launch()
    capsys.readouterr()
    assert launch() == 0
    assert len(cluster.submitted) == 1
    printed = capsys.readouterr().out
    assert "sweep.yaml: 4 runs, 0 to launch" in printed
    assert "now: 4 queued" in printed


def test_stages_wait_for_each_other(
    write: Write, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write(STAGES)
    assert launch() == 0
    assert cluster.submitted == [
        (["s1", "s2"], None, ()),
        (["s1"], None, ("job-s1",)),
        (["s2"], None, ("job-s2",)),
        (["s3", "s4"], None, ("job-s1", "job-s2")),
    ]
    assert "waits until first has ended" in capsys.readouterr().out


def test_a_stage_waits_only_for_what_is_under_way(write: Write, cluster: Cluster) -> None:
    write(STAGES.replace("  each: {after: first, start: each}\n", ""))
    cluster.states.update(s1="finished", s2="running")
    launch()
    assert cluster.submitted == [(["s3", "s4"], None, ("job-s2",))]


def test_what_comes_after_a_failed_run_is_not_launched(
    write: Write, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write(STAGES.replace("  each: {after: first, start: each}\n", ""))
    cluster.states.update(s1="finished", s2="failed")
    assert launch() == 0
    assert cluster.submitted == []
    assert "s3: not launched, because runs/first/s2 is failed." in capsys.readouterr().out


def test_a_dry_run_lists_every_command_and_writes_nothing(
    write: Write, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write(GRID.replace("local", "slurm"))
    cluster.states["s1"] = "finished"
    assert launch("--dry-run") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "sweep.yaml: 4 runs, 3 to launch\n  runs: 4 of 2 ranks on 1 node\n    seed: 1, 2, 3, 4\n"
        "    now: 1 finished, 3 new\n\n# s2\nfairseq-train data --user-dir metaseq_plugin"
    )
    assert printed.count("fairseq-train data") == 3
    assert printed.count("#SBATCH --nodes=1") == 1
    assert cluster.submitted == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-jobs", "0"], "`--max-jobs` must be at least 1, but is 0"),
        (["--data", "x"], "`--data` must stand in the file of a sweep, but is on the command line. Set `data` there"),
        (["--save-dir", "x"], "`--save-dir` must stand in the file of a sweep"),
        (["--lr", "1"], "`--lr` must stand in the file of a sweep, but is on the command line. Set `options` there"),
        (["--batch-tokens", "1M"], "`--batch-tokens` must stand in the file of a sweep"),
    ],
)  # fmt: skip
def test_wrong_options(
    write: Write, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    write(GRID)
    assert launch(*arguments) == 2
    assert sentence in capsys.readouterr().err


def metaseq(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["metaseq", "launch", "sweep.yaml", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_three_runs_on_this_machine_of_which_one_fails_and_is_launched_again(
    tmp_path: Path,
) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "sweep.yaml").write_text(TINY_SWEEP)
    damaged = tmp_path / "runs/s2/checkpoint_last.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no checkpoint")

    ended = metaseq(tmp_path, "--max-jobs", "2", "--wait")
    assert ended.returncode == 2, ended.stderr
    assert "Every run must finish, but 1 of 3 did not (runs/s2: gave_up)." in ended.stderr
    folders = [tmp_path / f"runs/s{seed}" for seed in (1, 2, 3)]
    assert [state_of(folder) for folder in folders] == ["finished", "gave_up", "finished"]
    before = [read_events(folder).events for folder in folders]

    damaged.unlink()
    ended = metaseq(tmp_path, "--only", "failed", "--wait")
    assert ended.returncode == 0, ended.stderr
    assert "3 runs, 1 to launch" in ended.stdout
    assert [state_of(folder) for folder in folders] == ["finished"] * 3
    after = [read_events(folder).events for folder in folders]
    assert after[0] == before[0]
    assert len(after[1]) > len(before[1])
    assert after[2] == before[2]
    for folder in folders:
        assert (folder / "checkpoint_last.pt").is_file()
