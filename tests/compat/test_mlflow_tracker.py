"""--mlflow-experiment: the lines of a run and of its restart in one MLflow run, in MLflow's own files."""

import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseq_plugin.compat.mlflow_tracker import MLflowRun, flat, numbers
from tests.fairseq_runs import train, write_data

OPTIONS = ("--log-format", "json", "--log-interval", 2, "--mlflow-experiment", "opt")


def test_what_is_sent_of_a_line() -> None:
    stats = {
        "loss": SimpleNamespace(val=2.5), "mfu": 0.25, "num_updates": 4, "none": None, "word": "x"
    }  # fmt: skip
    assert dict(numbers(stats)) == {"loss": 2.5, "mfu": 0.25}


def test_options_are_flat() -> None:
    config = {"optimization": {"lr": [0.1], "inner": {"x": None}}, "seed": 1}
    assert flat(config) == {"optimization.lr": [0.1], "optimization.inner.x": None, "seed": 1}


class Lost(Exception):
    """MLflow's own kind."""


class Server:
    """MLflow's client, of a server that answers all but what ``lost`` names."""

    def __init__(self, *lost: str) -> None:
        self.lost, self.made = lost, False
        self.runs: "list[Any]" = []
        self.asked: "list[str]" = []

    def __getattr__(self, name: str) -> Any:
        def answer(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            if name in self.lost:
                raise Lost(f"no {name}")
            return SimpleNamespace(
                info=SimpleNamespace(run_id="1"), data=SimpleNamespace(params={})
            )

        return answer

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if self.made else None

    def create_experiment(self, name: str) -> str:
        """Somebody else was faster."""
        self.made = True
        raise Lost("it exists")

    def search_runs(self, *args: Any, **kwargs: Any) -> "list[Any]":
        return self.runs


def run_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> MLflowRun:
    module = SimpleNamespace(
        MlflowClient=lambda: server,
        exceptions=SimpleNamespace(MlflowException=Lost),
        entities=SimpleNamespace(Metric=SimpleNamespace, Param=lambda name, value: (name, value)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    return MLflowRun("opt", "runs/a")


def test_runs_that_start_together_share_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    run_on(server, monkeypatch)
    assert server.made


@pytest.mark.parametrize("lost", ["get_run", "log_batch"])
def test_options_that_cannot_be_sent_stop_no_run(
    lost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_on(Server(lost), monkeypatch)
    with caplog.at_level(logging.WARNING):
        run.params({"seed": 1})
        run.params({"seed": 1})
    assert caplog.messages == [f"MLflow is sent nothing more: no {lost}"]


def test_a_start_that_is_refused_leaves_the_run_that_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two starts in one folder: the second one is told so, behind the look at MLflow."""
    server = Server()
    server.runs = [SimpleNamespace(info=SimpleNamespace(run_id="1"))]
    run_on(server, monkeypatch).close("FAILED")
    assert server.asked == []
    trains = run_on(server, monkeypatch)
    trains.params({"seed": 1})
    trains.close("FINISHED")
    assert server.asked == ["update_run", "get_run", "log_batch", "set_terminated"]


def test_a_server_that_hangs_is_not_waited_for_as_long_as_mlflow_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_on(Server(), monkeypatch)
    tries = int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) + 1
    assert tries * int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 60


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return mlflow.MlflowClient(f"file://{tmp_path}/mlruns")


@pytest.mark.slow
def test_a_run_and_its_restart_are_one(client: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    outputs = [
        train(data, tmp_path / "run's", *OPTIONS, "--max-update", end, "--lr", lr)
        for end, lr in ((4, 0.01), (8, 0.02))
    ]
    assert [ended.status for ended in outputs] == [0, 0], outputs
    experiment = client.get_experiment_by_name("opt").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run's"
    assert run.data.params["optimization.lr"] == "[0.01]"  # as it was first
    lines = [
        json.loads(line.split(" | train_inner | ")[1])
        for ended in outputs
        for line in ended.output.splitlines()
        if " | train_inner | " in line
    ]
    for name in ("loss", "mfu", "tokens", "kwh_estimated"):
        drawn = client.get_metric_history(run.info.run_id, f"train_inner/{name}")
        assert [metric.step for metric in drawn] == [2, 4, 6, 8]
        shown = [float(line[name]) for line in lines]
        assert [metric.value for metric in drawn] == pytest.approx(shown, rel=1e-3)
    assert client.get_metric_history(run.info.run_id, "valid/loss")


@pytest.mark.slow
def test_a_store_that_cannot_be_asked_is_refused(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://of-the-kind")
    ended = train(write_data(tmp_path / "data"), tmp_path / "run", *OPTIONS, "--max-update", 4)
    assert ended.status == 2, ended.output
    assert (
        "`--mlflow-experiment` must be one that MLflow can be told of, but is opt:" in ended.output
    )


@pytest.mark.slow
def test_a_server_that_is_gone_stops_no_run(client: Any, tmp_path: Path) -> None:
    def losing() -> None:
        mlflow: Any = import_module("mlflow")

        def log_batch(*args: Any, **kwargs: Any) -> None:
            raise mlflow.exceptions.MlflowException("no answer")

        mlflow.MlflowClient.log_batch = log_batch

    ended = train(
        write_data(tmp_path / "data"), tmp_path / "run", *OPTIONS, "--max-update", 4, prepare=losing
    )
    assert ended.status == 0, ended.output
    assert ended.output.count("MLflow is sent nothing more: no answer") == 1
