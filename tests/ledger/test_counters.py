"""Counters of energy: on made-up ones, whose right values are known, and on those of this machine where it has any."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metaseq_plugin.ledger import counters
from metaseq_plugin.ledger.counters import (
    POWERCAP,
    CpuCounter,
    GpuCounter,
    Rated,
    cpu_counter,
    gpu_counter,
)

RANGE = 262_143_328_850  # µJ, of many Intel packages
ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}


def put(powercap: Path, zone: str, microjoules: int) -> None:
    (powercap / zone / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two sockets, each zone at 1,000 µJ."""
    (tmp_path / "intel-rapl").mkdir()  # the root of them all, which counts nothing
    for zone, name in ZONES.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
        put(tmp_path, zone, 1000)
    return tmp_path


def test_packages_and_memory_are_counted_once(powercap: Path) -> None:
    counter = CpuCounter(powercap)
    assert counter.joules() == 0
    for power, zone in enumerate(ZONES):
        put(powercap, zone, 1000 + 10**power * 1_000_000)
    # package-0: 1 J, dram: 100 J, package-1: 1,000 J; not core, psys, nor the second door to package-0.
    assert counter.joules() == 1101
    assert counter.is_measured


def test_a_number_that_begins_anew(powercap: Path) -> None:
    put(powercap, "intel-rapl:1", RANGE - 2_000_000)
    counter = CpuCounter(powercap)
    put(powercap, "intel-rapl:1", 3_000_000)
    assert counter.joules() == pytest.approx(5)
    put(powercap, "intel-rapl:1", 1_000_000)  # and once more
    assert counter.joules() == pytest.approx(5 + RANGE / 1e6 - 2)


def test_no_processor_that_can_be_read(powercap: Path, tmp_path: Path) -> None:
    assert cpu_counter(tmp_path / "nothing") is None
    put(powercap, "intel-rapl:0", 0)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("")
    assert cpu_counter(powercap) is None
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert cpu_counter(powercap) is None


class NVMLError(Exception):
    """As nvidia-ml-py's."""


class FakeNvml:
    """nvidia-ml-py with two GPUs; the counter of "GPU-c" is missing."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        self.millijoules = {"GPU-a": 7_000_000, "GPU-b": 1_000}

    def nvmlInit(self) -> None:
        return

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if handle not in self.millijoules:
            raise NVMLError("Not Supported")
        return self.millijoules[handle]


def test_gpus_are_counted_from_the_beginning() -> None:
    nvml = FakeNvml()
    counter = GpuCounter(["GPU-a", "GPU-b"], nvml)
    assert counter.joules() == 0
    nvml.millijoules = {"GPU-a": 7_300_000, "GPU-b": 2_500}
    assert counter.joules() == 301.5
    assert counter.source == "NVML's energy counters of 2 GPUs"


def test_gpus_without_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    found = gpu_counter(["GPU-a"])
    assert found is not None
    assert found.is_measured
    assert gpu_counter(["GPU-a", "GPU-c"]) is None  # a part of the sum would pass for all of it
    assert gpu_counter(["GPU-a", None]) is None
    assert gpu_counter([]) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert gpu_counter(["GPU-a"]) is None


def test_rated_power_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(counters, "time", clock)
    rated = Rated(700, "H100 data sheet")
    clock.monotonic = lambda: 110.0
    assert rated.joules() == 7000
    assert not rated.is_measured


@pytest.mark.slow
def test_rapl_agrees_with_a_second_reader() -> None:
    """Against ``perf stat``, which asks the processor by another door; skipped where either is closed."""
    counter = cpu_counter()
    if counter is None:
        pytest.skip(f"{POWERCAP} cannot be read here")
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    events = "power/energy-pkg/,power/energy-ram/"
    product = "import torch\nfor _ in range(2000): torch.ones(512, 512) @ torch.ones(512, 512)"
    stat = [perf, "stat", "-a", "-x", ",", "-e", events, sys.executable, "-c", product]
    before = counter.joules()
    said = subprocess.run(stat, capture_output=True, text=True, check=False).stderr
    measured = counter.joules() - before
    rows = [line.split(",") for line in said.splitlines() if ",Joules," in line]
    if not rows:
        pytest.skip("perf may not read the processor's energy here")
    second = sum(float(row[0]) for row in rows if row[0][:1].isdigit())
    assert measured == pytest.approx(second, rel=0.05)


@pytest.mark.gpu
@pytest.mark.slow
def test_nvmls_counter_agrees_with_sampled_power() -> None:
    pynvml: Any = pytest.importorskip("pynvml")
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    counter = gpu_counter([uuid])
    if counter is None:
        pytest.skip("this GPU has no energy counter")
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    a = torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16)
    begin, first = time.monotonic(), counter.joules()
    sampled, last = 0.0, begin
    while time.monotonic() - begin < 20:
        for _ in range(20):
            torch.mm(a, a)
        torch.cuda.synchronize()
        now = time.monotonic()
        sampled += pynvml.nvmlDeviceGetPowerUsage(handle) / 1000 * (now - last)
        last = now
    assert counter.joules() - first == pytest.approx(sampled, rel=0.05)
