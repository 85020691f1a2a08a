"""A real SLURM of two nodes for the tests of this folder: one for each worker of pytest-xdist, skipped where none can be."""

from pathlib import Path
from typing import Callable, Dict, Iterator, Tuple

import pytest

from metaseq_plugin.launch.spec import RunSpec
from scripts.slurm_cluster import NODES, Cluster, Options, wait_until, what_is_missing
from tests.fairseq_runs import write_data
from tests.rank_runs import train_ranks
from tests.slurm.trials import tiny_options

# Seconds as short as trials on a busy machine bear.
QUICK = Options(cpus=8, kill_wait=20, node_timeout=9, requeue_wait=5, grace=60)


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = what_is_missing()
    if missing:
        pytest.skip(f"a SLURM cannot be brought up: {missing}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up(QUICK)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def cluster(whole_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster with all its daemons up and no job, which commands of this test mean."""
    for name, value in whole_cluster.exports().items():
        monkeypatch.setenv(name, value)
    yield whole_cluster
    for node in NODES:  # that a test took away; refused for others
        whole_cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    whole_cluster.up()  # what it took down
    whole_cluster.cancel_all()
    assert wait_until(lambda: not whole_cluster.step_processes(), 10), "a process of a job is left"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), documents=256)


Undisturbed = Callable[..., Path]


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """``undisturbed(40, nodes=2)``: the folder of the same run of 40 updates without any launcher, made once."""
    made: Dict[Tuple[int, int], Path] = {}

    def run(updates: int, nodes: int = 1) -> Path:
        if (updates, nodes) not in made:
            options = {**tiny_options(updates), "user-dir": "metaseq_plugin"}
            folder = tmp_path_factory.mktemp("undisturbed")
            _, *words = RunSpec(str(data), folder, options).words()
            ended = train_ranks(nodes, data, folder, *words)
            assert not any(rank.status for rank in ended), ended
            made[updates, nodes] = folder
        return made[updates, nodes]

    return run
