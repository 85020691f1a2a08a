"""What one machine of a run has used, each counted once, and the sum over all of them without asking any.

    RUN/ledger/energy-NODE.jsonl      a line every 30 s and at the end, by the first rank of each machine

Fields of a line: ``time``, ``update``, ``node``, ``joules`` (of this machine since the run's first start: restarts go
on where its last line ends, so an interval that was computed twice is paid for twice), ``gpu_joules`` and
``cpu_joules`` (the parts that were read), ``energy_is`` ("measured", or "estimated" where the devices were not), ``source``,
``devices`` (ranks on it), ``seconds`` (that were metered). The last line of each file, summed, is the run's energy.

(1) ``counters_of``: GPUs by NVML, else rated power; beside them the processors, where RAPL can be read. On CPUs the
    processors are the devices. Nothing, where no power is known: a part of the sum would pass for all of it.
(2) ``NodeEnergy.tick``, behind each step: reads and writes when ``PERIOD`` has passed; RAPL's numbers wrap around
    after minutes.
(3) ``used_by_others``: from the ends of the other machines' files, which are as old as ``PERIOD``.
"""

import logging
import math
import time
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence

from metaseq_plugin.ledger.counters import Counter, Rated, cpu_counter, gpu_counter
from metaseq_plugin.ledger.rates import known_device
from metaseq_plugin.storage.json_lines import Lines, Row, parse_row

logger = logging.getLogger(__name__)

PREFIX, SUFFIX = "energy-", ".jsonl"
PERIOD = 30.0  # seconds between two lines
TAIL_BYTES = 4096  # holds a file's last line
MEASURED, ESTIMATED = "measured", "estimated"
# What codecarbon 3.3.2 takes a processor for that it does not know (read 2026-11-27).
WATTS_OF_THREAD = 4.0
GPU, CPU = "gpu", "cpu"


class Devices(NamedTuple):
    """The devices of a run on one machine.

    Attributes:
        name: as its driver has it.
        uuids: of each GPU; None of one that has none, and of a CPU.
        threads: of all ranks on CPUs, at most those that the machine has.
        watts: of a device (a GPU, or a rank's share of the CPUs), where the user gave it.
    """

    name: str
    is_gpu: bool
    uuids: Sequence[Optional[str]]
    threads: int
    watts: Optional[float] = None


def counters_of(devices: Devices) -> Dict[str, Counter]:
    """What to read of a machine, by part."""
    if not devices.is_gpu:
        return {CPU: cpu_counter() or rated_cpu(devices)}
    found: Optional[Counter] = gpu_counter(devices.uuids) or rated_gpus(devices)
    if found is None:
        return {}
    processors = cpu_counter()
    return {GPU: found} if processors is None else {GPU: found, CPU: processors}


def rated_cpu(devices: Devices) -> Rated:
    count = len(devices.uuids)
    if devices.watts is not None:
        return Rated(devices.watts * count, f"--device-watts {devices.watts:g} × {count}")
    source = f"assumed {WATTS_OF_THREAD:g} W a thread × {devices.threads}"
    return Rated(WATTS_OF_THREAD * devices.threads, source)


def rated_gpus(devices: Devices) -> Optional[Rated]:
    count, row = len(devices.uuids), known_device(devices.name)
    if devices.watts is not None:
        return Rated(devices.watts * count, f"--device-watts {devices.watts:g} × {count}")
    if row is None:
        return None
    return Rated(row.watts * count, f"rated {row.watts:g} W × {count} ({row.sources['watts']})")


class NodeEnergy:
    """The meter of this machine, and its file.

    Args:
        folder: of the ledger; None keeps no file.
        node: name of the machine.
        counters: by part; at least one.
    """

    def __init__(
        self, folder: Optional[Path], node: str, counters: Dict[str, Counter], num_devices: int
    ) -> None:
        self.node, self.num_devices = node, num_devices
        self._counters = counters
        self._path = None if folder is None else energy_file(folder, node)
        self._before: Row = {} if self._path is None else last_row(self._path)
        self._parts = dict.fromkeys(counters, 0.0)
        self._begin = self._last = time.monotonic()
        self._has_warned = self._is_incomplete = False

    @property
    def is_measured(self) -> bool:
        """Whether a meter of the devices was read all the time, in this start and in those before it."""
        devices = self._counters.get(GPU) or self._counters[CPU]
        was_measured = self._before.get("energy_is", MEASURED) == MEASURED
        return devices.is_measured and was_measured and not self._is_incomplete

    @property
    def source(self) -> str:
        return " and ".join(counter.source for counter in self._counters.values())

    def joules(self) -> float:
        """Of this machine, since the first start of the run."""
        for part, counter in self._counters.items():
            # A driver that is gone answers no more; what it said last stays.
            try:
                self._parts[part] = counter.joules()
            except counter.errors as error:
                self._is_incomplete = True
                self._warn(f"{counter.source} cannot be read any more ({error})")
        return number(self._before, "joules") + sum(self._parts.values())

    def tick(self, update: int) -> None:
        """Write a line, if it is time to."""
        if time.monotonic() - self._last >= PERIOD:
            self.write(update)

    def write(self, update: int) -> None:
        """Write a line; training goes on where the disk takes none."""
        row = self.row(update)
        self._last = time.monotonic()
        if self._path is None:
            return
        try:
            with Lines(self._path) as lines:
                lines.append(row, durable=False)
        except OSError as error:
            self._warn(f"{self._path} cannot be written ({error.strerror})")

    def row(self, update: int) -> Row:
        total = self.joules()
        before = self._before
        parts = {
            f"{part}_joules": number(before, f"{part}_joules") + self._parts.get(part, 0.0)
            for part in (GPU, CPU)
            if part in self._parts or f"{part}_joules" in before
        }
        return {
            "time": time.time(),
            "update": update,
            "node": self.node,
            "joules": total,
            **parts,
            "seconds": number(before, "seconds") + time.monotonic() - self._begin,
            "energy_is": MEASURED if self.is_measured else ESTIMATED,
            "source": self.source,
            "devices": self.num_devices,
        }

    def _warn(self, words: str) -> None:
        if not self._has_warned:
            logger.warning(f"{words}: the run's energy misses what is used from now on")
        self._has_warned = True


class Used(NamedTuple):
    """Joules of some machines, and whether each of them was measured."""

    joules: float = 0.0
    is_measured: bool = True


def used_by_others(folder: Path, node: str) -> Used:
    """What the other machines' files end with; a machine whose file cannot be read makes it an estimate."""
    rows = [last_row(path) for path in energy_files(folder) if path != energy_file(folder, node)]
    return Used(
        sum(number(row, "joules") for row in rows),
        all(row.get("energy_is") == MEASURED for row in rows),
    )


def energy_file(folder: Path, node: str) -> Path:
    return folder / f"{PREFIX}{node}{SUFFIX}"


def energy_files(folder: Path) -> Iterator[Path]:
    """One a machine."""
    yield from sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


def last_row(path: Path) -> Row:
    """The last whole line of a file that may be long; empty where there is none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read().split(b"\n")
    except OSError:
        return {}
    return next((row for row in map(parse_row, reversed(lines)) if row is not None), {})


def number(row: Row, name: str) -> float:
    """A field of a line, 0 where it has none that can be: a line of another program's, or damaged."""
    value = row.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    return float(value) if 0 <= value < math.inf else 0.0
