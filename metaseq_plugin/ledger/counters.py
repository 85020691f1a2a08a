"""Counters of energy that a machine has: its GPUs' (NVML), its processors' (RAPL), else a rated power and a clock.

    counter = gpu_counter(["GPU-6f2e…"]) or Rated(700, "H100 data sheet")
    counter.joules()

Each counts joules since it was opened, over its devices.

(1) ``GpuCounter``: NVML's total energy of each GPU, in mJ since its driver was loaded (Volta and later). Needs nvidia-ml-py.
(2) ``CpuCounter``: Linux's powercap, µJ of each processor package (``intel-rapl:0``, AMD's too) and of the memory that
    hangs on it (its subzone "dram"); the other subzones are parts of the package, and "psys" is all over again. The
    numbers begin anew at ``max_energy_range_uj``, after minutes under load, so somebody must read more often than that.
    Most systems let only root read them.
(3) ``Rated``: watts times seconds; an estimate.
"""

import time
from importlib import import_module
from pathlib import Path
from typing import Any, List, Optional, Protocol, Sequence, Tuple, Type

POWERCAP = Path("/sys/class/powercap")
OWN_ZONES = (
    "package-",
    "dram",
)  # beginnings of the names of zones that together count everything once


Errors = Tuple[Type[Exception], ...]


class Counter(Protocol):
    """Where joules are read.

    Attributes:
        source: what was read, in words.
        is_measured: whether a meter was.
        errors: what ``joules`` raises where it can be read no more.
    """

    source: str
    is_measured: bool
    errors: Errors

    def joules(self) -> float:
        """Since it was opened."""


class GpuCounter:
    """The energy of some of a machine's GPUs.

    Args:
        uuids: as NVML has them: "GPU-" and 36 characters.
        nvml: module of nvidia-ml-py.

    Raises:
        nvml.NVMLError: no driver, no such GPU (a part of one, by MIG, has no counter), or one without a counter.
    """

    is_measured = True

    def __init__(self, uuids: Sequence[str], nvml: Any) -> None:
        self._nvml = nvml
        self.errors: Errors = (nvml.NVMLError,)
        nvml.nvmlInit()
        self._handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        self._first = self._millijoules()
        self.source = f"NVML's energy counters of {len(uuids)} GPU{'s' if len(uuids) > 1 else ''}"

    def _millijoules(self) -> List[int]:
        read = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        return [int(read(handle)) for handle in self._handles]

    def joules(self) -> float:
        return (sum(self._millijoules()) - sum(self._first)) / 1000


class Zone:
    """One counter of powercap's, which wraps around.

    Raises:
        OSError, ValueError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._energy = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._energy.read_text())
        self.microjoules = 0  # since it was opened

    def read(self) -> int:
        now = int(self._energy.read_text())
        passed = now - self._last
        self.microjoules += passed if passed >= 0 else passed + self._range
        self._last = now
        return self.microjoules


class CpuCounter:
    """The energy of a machine's processors and memory, whoever uses them.

    Raises:
        OSError: there is no powercap, or it cannot be read.
    """

    is_measured = True
    errors: Errors = (OSError, ValueError)

    def __init__(self, powercap: Path = POWERCAP) -> None:
        found = [zone for zone in sorted(powercap.glob("intel-rapl*:*")) if is_counted(zone)]
        if not found:
            raise FileNotFoundError(f"{powercap} has no processor")
        self._zones = [Zone(folder) for folder in found]
        self.source = "RAPL, the whole machine's processors and memory"

    def joules(self) -> float:
        return sum(zone.read() for zone in self._zones) / 1e6


def is_counted(zone: Path) -> bool:
    """Whether no other zone counts what this one does; the second door to a package, "mmio", is left out."""
    if zone.name.startswith("intel-rapl-mmio"):
        return False
    return (zone / "name").read_text().startswith(OWN_ZONES)


class Rated:
    """What ``watts`` come to as time passes."""

    is_measured = False
    errors: Errors = ()

    def __init__(self, watts: float, source: str) -> None:
        self.watts, self.source = watts, source
        self._begin = time.monotonic()

    def joules(self) -> float:
        return self.watts * (time.monotonic() - self._begin)


def gpu_counter(uuids: Sequence[Optional[str]]) -> Optional[GpuCounter]:
    """That of the GPUs, or None where they have none, or nvidia-ml-py is not installed."""
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:
        return None
    named = [uuid for uuid in uuids if uuid is not None]
    if not named or len(named) < len(uuids):
        return None
    try:
        return GpuCounter(named, pynvml)
    except pynvml.NVMLError:
        return None


def cpu_counter(powercap: Path = POWERCAP) -> Optional[CpuCounter]:
    """That of the processors, or None where it cannot be read."""
    try:
        return CpuCounter(powercap)
    except (OSError, ValueError):
        return None
