"""The energy of a machine, over restarts; and the sum over machines, from their files."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, Optional

import pytest

from metaseq_plugin.ledger import node_energy
from metaseq_plugin.ledger.node_energy import (
    Devices,
    NodeEnergy,
    counters_of,
    last_row,
    rated_cpu,
    rated_gpus,
    used_by_others,
)


class Given:
    """A counter that says what it is told to."""

    source, errors = "a meter", (OSError,)

    def __init__(self, joules: float = 0.0, is_measured: bool = True) -> None:
        self.value, self.is_measured = joules, is_measured
        self.is_gone = False

    def joules(self) -> float:
        if self.is_gone:
            raise OSError("gone")
        return self.value


def meter(folder: Optional[Path], node: str = "n0", **counters: Any) -> NodeEnergy:
    return NodeEnergy(folder, node, counters, num_devices=8)


def test_a_line_says_what_was_used_and_of_what(tmp_path: Path) -> None:
    energy = meter(tmp_path, gpu=Given(3000.0), cpu=Given(500.0))
    energy.write(update=70)
    row = json.loads((tmp_path / "energy-n0.jsonl").read_text())
    assert (row["joules"], row["gpu_joules"], row["cpu_joules"]) == (3500, 3000, 500)
    assert (row["update"], row["node"], row["devices"]) == (70, "n0", 8)
    assert (row["energy_is"], row["source"]) == ("measured", "a meter and a meter")


def test_a_restart_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    meter(tmp_path, cpu=Given(100.0)).write(1)
    path = tmp_path / "energy-n0.jsonl"
    with path.open("a") as stream:
        stream.write('{"time": 5, "joules": 9999')  # killed in the middle of it
    again = meter(tmp_path, cpu=Given(11.0))
    assert again.joules() == 111
    again.write(2)
    assert last_row(path)["joules"] == 111
    assert last_row(path)["cpu_joules"] == 111
    assert meter(tmp_path, cpu=Given()).joules() == 111


def test_an_estimate_stays_one(tmp_path: Path) -> None:
    """Of a run whose first start could not be measured; and processors beside estimated GPUs measure no GPU."""
    first = meter(tmp_path, gpu=Given(5.0, is_measured=False), cpu=Given(1.0))
    assert not first.is_measured
    first.write(1)
    assert last_row(tmp_path / "energy-n0.jsonl")["energy_is"] == "estimated"
    assert not meter(tmp_path, gpu=Given()).is_measured


def test_a_line_comes_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(node_energy.time, "monotonic", lambda: now)
    energy = meter(tmp_path, cpu=Given(1.0))
    path = tmp_path / "energy-n0.jsonl"
    for now, lines in ((1029.0, 0), (1030.0, 1), (1059.0, 1), (1061.0, 2)):  # noqa: B007
        energy.tick(3)
        assert (path.read_text().count("\n") if path.exists() else 0) == lines
    assert last_row(path)["seconds"] == 61


def test_the_other_machines(tmp_path: Path) -> None:
    for node, joules in (("n0", 1.0), ("n1", 20.0), ("n2", 300.0)):
        meter(tmp_path, node, cpu=Given(joules)).write(1)
    assert used_by_others(tmp_path, "n0") == (320.0, True)
    assert used_by_others(tmp_path, "n2") == (21.0, True)
    (tmp_path / "energy-n3.jsonl").write_text(
        '{"time": 1, "joules": NaN, "energy_is": "measured"}\n'
    )
    assert used_by_others(tmp_path, "n0") == (320.0, True)
    (tmp_path / "energy-n4.jsonl").write_text("not ours\n")
    assert used_by_others(tmp_path, "n0") == (320.0, False)


def test_the_end_of_a_long_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "energy-n0.jsonl"
    path.write_text("".join(f'{{"time": {n}, "joules": {n}}}\n' for n in range(10_000)))
    assert last_row(path) == {"time": 9999, "joules": 9999}
    assert last_row(tmp_path / "nothing") == {}


def test_a_counter_that_is_gone_keeps_what_it_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counter = Given(40.0)
    energy = meter(tmp_path, cpu=counter)
    assert energy.joules() == 40
    counter.is_gone = True
    with caplog.at_level(logging.WARNING):
        assert [energy.joules(), energy.joules()] == [40, 40]
    assert len(caplog.messages) == 1
    assert "a meter cannot be read any more" in caplog.messages[0]
    assert not energy.is_measured


def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "energy-n0.jsonl").mkdir()
    energy = meter(tmp_path, cpu=Given(40.0))
    with caplog.at_level(logging.WARNING):
        energy.write(1)
        energy.write(2)
    assert len(caplog.messages) == 1
    assert energy.joules() == 40


def sources(devices: Devices, monkeypatch: pytest.MonkeyPatch, **found: Any) -> Dict[str, str]:
    monkeypatch.setattr(node_energy, "gpu_counter", lambda uuids: found.get("gpu"))
    monkeypatch.setattr(node_energy, "cpu_counter", lambda: found.get("cpu"))
    return {part: counter.source for part, counter in counters_of(devices).items()}


GPUS = Devices("NVIDIA H200", is_gpu=True, uuids=["GPU-a", "GPU-b"], threads=2)
CPUS = Devices("AMD EPYC", is_gpu=False, uuids=[None, None], threads=16)


def test_what_is_read_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    rated = {"gpu": "rated 700 W × 2 (H200 data sheet)"}
    assert sources(GPUS, monkeypatch) == rated
    assert sources(GPUS, monkeypatch, cpu=Given()) == {**rated, "cpu": "a meter"}
    assert sources(GPUS, monkeypatch, gpu=Given()) == {"gpu": "a meter"}
    assert sources(CPUS, monkeypatch, cpu=Given()) == {"cpu": "a meter"}
    assert sources(CPUS, monkeypatch) == {"cpu": "assumed 4 W a thread × 16"}
    mine = GPUS._replace(watts=350.0)
    assert sources(mine, monkeypatch) == {"gpu": "--device-watts 350 × 2"}
    assert sources(mine, monkeypatch, gpu=Given()) == {"gpu": "a meter"}
    assert sources(CPUS._replace(watts=20.0), monkeypatch) == {"cpu": "--device-watts 20 × 2"}
    # Processors alone would pass for the whole.
    unknown = GPUS._replace(name="GeForce 9000")
    assert sources(unknown, monkeypatch, cpu=Given()) == {}


def test_rated_watts_are_those_of_all_devices() -> None:
    found = rated_gpus(GPUS)
    assert found is not None
    assert found.watts == 1400
    assert rated_cpu(CPUS).watts == 64
