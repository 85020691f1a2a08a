"""What a run computes and uses while it trains: the numbers that fairseq's log lines, and so all trackers, gain.

    with metering():                       # around the run, on every rank
        begin(trainer)                     # before the first update; the ranks tell each other where they are
        current().tick(update)             # behind each step
        current().added(stats, tokens)     # {"tokens": …, "tflops": …, "mfu": …, "hfu": …, "kwh": …, "eta": …}

Other parts ask ``current()``: ``rates(tokens_per_second)`` and ``energy()``. It is None where no run is metered:
before it begins, and with --no-ledger.

(1) Each rank names its machine (the boot that it runs in, so that two containers are one), its device and its threads.
(2) Rank 0 finds the peak (``peak.py``) and says which; the first rank of each machine reads its counters
    (``node_energy.py``). No rank waits for another after that.
"""

import logging
import math
import os
import socket
import time
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

import torch

from metaseq_plugin.distributed.run import current as current_layout
from metaseq_plugin.layout.peers import all_ranks
from metaseq_plugin.ledger.energy import JOULES_OF_KWH
from metaseq_plugin.ledger.files import ledger_folder
from metaseq_plugin.ledger.node_energy import (
    ESTIMATED,
    MEASURED,
    Devices,
    NodeEnergy,
    Used,
    counters_of,
    used_by_others,
)
from metaseq_plugin.ledger.options import option
from metaseq_plugin.ledger.peak import device_name, peak_of
from metaseq_plugin.ledger.prometheus import write_metrics
from metaseq_plugin.ledger.recorder import current_recorder
from metaseq_plugin.ledger.remaining import ends_of, seconds_left
from metaseq_plugin.ledger.start import model_facts
from metaseq_plugin.ledger.throughput import Rates, Throughput
from metaseq_plugin.storage.json_lines import Row

logger = logging.getLogger("fairseq_cli.train")  # --log-file is a handler of this one

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OTHERS_PERIOD = 60.0  # seconds between two looks at the other machines' files
DIGITS = 4  # of what a log line shows
NAME_WIDTH = 10  # as in the lines that say what starts


class Place(NamedTuple):
    """Where a rank computes.

    Attributes:
        machine: its boot; ranks in several containers of one machine have the same.
        host: the machine's name.
        device: what the driver calls it.
        uuid: of a GPU, as NVML has it.
        threads: that a rank on CPUs multiplies with.
        cpus: that its machine has.
    """

    machine: str
    host: str
    device: str
    uuid: Optional[str]
    threads: int
    cpus: int


def place_of(device: torch.device) -> Place:
    """This rank's."""
    host = socket.gethostname()
    machine = BOOT_ID.read_text().strip() if BOOT_ID.exists() else host
    uuid = None
    if device.type == "cuda":
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return Place(
        machine, host, device_name(device), uuid, torch.get_num_threads(), os.cpu_count() or 1
    )


def node_names(places: List[Place]) -> Dict[str, str]:
    """machine -> its name in the ledger: its host's, with the boot where two machines are called alike."""
    hosts = {place.machine: place.host for place in places}
    taken = list(hosts.values())
    return {
        machine: host if taken.count(host) == 1 else f"{host}-{machine[:8]}"
        for machine, host in hosts.items()
    }


class RunMeter:
    """The numbers of a run as this rank can tell them.

    Attributes:
        throughput: None but on rank 0, which logs.
        node: the meter of this machine, on its first rank; None where its power is not known.
        num_nodes: machines of the run.
        found: what others have found of the run, for the lines from now on.
    """

    def __init__(
        self, cfg: Any, throughput: Optional[Throughput], node: Optional[NodeEnergy], num_nodes: int
    ) -> None:
        self.throughput, self.node, self.num_nodes = throughput, node, num_nodes
        self.found: Dict[str, float] = {}
        # Options are slow to ask for at every line.
        self._folder, self._ends = folder_of(cfg), ends_of(cfg)
        self._run, self._log_interval = str(cfg.checkpoint.save_dir), int(cfg.common.log_interval)
        self._metrics_file: Optional[str] = option(cfg.task, "metrics_file")
        self.epoch_itr: Any = None
        self._update = self._in_metrics = 0
        self._has_warned = False
        self._others, self._others_read = Used(), -math.inf
        used = self.energy()
        # At the last line of the ledger's numbers; the first of them has the energy of what came before it, too.
        self._joules, self._read_at = 0.0 if used is None else used.joules, time.monotonic()

    def tick(self, update: int) -> None:
        """A step has been made: ``update`` updates in all."""
        self._update = update
        if self.node is not None:
            self.node.tick(update)

    def close(self) -> None:
        """The run ends; what the machine used stands in its file."""
        if self.node is not None:
            self.node.write(self._update)

    def rates(self, tokens_per_second: float) -> Optional[Rates]:
        """Of each device, at a speed of all ranks together; on rank 0 only."""
        return None if self.throughput is None else self.throughput.rates(tokens_per_second)

    def energy(self) -> Optional[Used]:
        """Joules of all machines since the run's first start, as far as rank 0 can know; None where it cannot."""
        if self.throughput is None or self.node is None:
            return None
        if self._folder is None:
            return Used(self.node.joules(), self.node.is_measured) if self.num_nodes == 1 else None
        # There may be others on one machine, too: of starts before this one.
        if time.monotonic() - self._others_read >= OTHERS_PERIOD:
            self._others = used_by_others(self._folder, self.node.node)
            self._others_read = time.monotonic()
        joules, is_measured = self._others
        return Used(self.node.joules() + joules, self.node.is_measured and is_measured)

    def of_window(self, row: Row) -> Row:
        """What a line of updates.jsonl gains on rank 0: rates while it trained, energy since the line before it.

        What other machines used comes in lumps, as old as ``OTHERS_PERIOD`` and ``PERIOD``.
        """
        found: Row = {}
        trained = row["computing"] + row["waiting"]
        rates = self.rates(row["ntokens"] / trained) if trained > 0 else None
        if rates is not None:
            found.update(rates._asdict())
        used = self.energy()
        if used is not None:
            joules, self._joules = used.joules - self._joules, used.joules
            seconds, self._read_at = time.monotonic() - self._read_at, time.monotonic()
            found.update(joules=joules, watts=joules / seconds, energy_is=word_of(used))
        return found

    def added(self, stats: Mapping[str, Any], tokens: Optional[int]) -> Dict[str, float]:
        """What a log line gains, on rank 0.

        Args:
            stats: of the line: ``wps`` and ``wpb`` among them, once there is a speed.
            tokens: that the run has trained on.
        """
        if self.throughput is None:
            return {}
        found: Dict[str, float] = {} if tokens is None else {"tokens": tokens}
        speed = float(stats.get("wps") or 0.0)
        if speed > 0:
            rates = self.throughput.rates(speed)
            found.update({name: rounded(x) for name, x in rates._asdict().items()})
        found.update({name: rounded(x) for name, x in self.found.items()})
        used = self.energy()
        if used is not None:
            found[kwh_name(used)] = rounded(used.joules / JOULES_OF_KWH)
        if speed > 0:
            left = seconds_left(self._ends, self.epoch_itr, stats)
            found.update({} if left is None else {"eta": round(left)})
        self._write_metrics({**stats, **found})
        return found

    def _write_metrics(self, numbers: Mapping[str, Any]) -> None:
        """--metrics-file, at each line of the interval; the line of a whole epoch has other means."""
        path, update = self._metrics_file, int(numbers.get("num_updates") or 0)
        is_due = update % self._log_interval == 0 and update != self._in_metrics
        if not (path and is_due):
            return
        self._in_metrics = update
        try:
            write_metrics(Path(path), self._run, numbers)
        except OSError as error:
            if not self._has_warned:
                logger.warning(f"--metrics-file {path} cannot be written ({error.strerror})")
            self._has_warned = True


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def word_of(used: Used) -> str:
    return MEASURED if used.is_measured else ESTIMATED


def kwh_name(used: Used) -> str:
    """Under which energy is logged: an estimate says so."""
    return "kwh" if used.is_measured else f"kwh_{ESTIMATED}"


def folder_of(cfg: Any) -> Optional[Path]:
    """Where the files of energy lie; None of a run that saves nothing."""
    return None if cfg.checkpoint.no_save else ledger_folder(Path(cfg.checkpoint.save_dir))


def precision_of(cfg: Any) -> str:
    """The type that the run multiplies in."""
    common = cfg.common
    if common.fp16 or common.memory_efficient_fp16 or common.amp:
        return "fp16"
    is_bf16 = common.bf16 or common.memory_efficient_bf16
    return "bf16" if is_bf16 or current_layout().compute_dtype == torch.bfloat16 else "fp32"


def throughput_of(trainer: Any, num_devices: int) -> Throughput:
    """What the tokens of the run cost, and what its devices could do."""
    facts = model_facts(trainer)
    return Throughput(
        facts["flops_per_token"],
        facts["hardware_flops_per_token"],
        peak_of(trainer.device, precision_of(trainer.cfg)),
        num_devices,
    )


# That of the run that this process trains, if it is metered.
_meter: ContextVar[Optional[RunMeter]] = ContextVar("meter", default=None)


def current() -> Optional[RunMeter]:
    """The meter of the run that this process trains."""
    return _meter.get()


@contextmanager
def metering() -> Iterator[None]:
    """For the time of a run; ``begin`` starts its meter."""
    token = _meter.set(None)
    try:
        yield
    finally:
        meter = _meter.get()
        _meter.reset(token)
        if meter is not None:
            meter.close()


def begin(trainer: Any) -> None:
    """Meter the run of ``trainer``, whose first update is next, unless --no-ledger; collective."""
    cfg, ranks = trainer.cfg, all_ranks()
    if option(cfg.task, "no_ledger") or _meter.get() is not None:
        return
    places: List[Place] = ranks.all_gather(place_of(trainer.device))
    own = places[ranks.rank]
    mine = [rank for rank, place in enumerate(places) if place.machine == own.machine]
    node = None
    if ranks.rank == mine[0]:
        name = node_names(places)[own.machine]
        node = node_energy(trainer, [places[rank] for rank in mine], name)
    throughput = throughput_of(trainer, ranks.size) if ranks.rank == 0 else None
    meter = RunMeter(cfg, throughput, node, len({place.machine for place in places}))
    _meter.set(meter)
    if throughput is not None:
        tell(throughput, precision_of(cfg), meter)


def tell(throughput: Throughput, precision: str, meter: RunMeter) -> None:
    """Say against what the run is measured, in the log and in the ledger."""
    flops, source = throughput.peak
    words = f"{flops / 1e12:.4g} TFLOP/s a device in {precision} ({source})"
    logger.info(f"{'peak':{NAME_WIDTH}} {words}")
    logger.info(f"{'energy':{NAME_WIDTH}} {energy_words(meter.node)}")
    recorder = current_recorder()
    if recorder is not None:
        recorder.facts.update(
            peak_flops=flops,
            peak_source=source,
            precision=precision,
            num_devices=throughput.num_devices,
            num_nodes=meter.num_nodes,
            energy_source=None if meter.node is None else meter.node.source,
        )
        recorder.sources.append(meter.of_window)


def node_energy(trainer: Any, places: List[Place], name: str) -> Optional[NodeEnergy]:
    """The meter of the machine on which the ranks of ``places`` are; None where its power is not known."""
    cfg = trainer.cfg
    devices = Devices(
        name=places[0].device,
        is_gpu=trainer.device.type == "cuda",
        uuids=[place.uuid for place in places],
        threads=min(places[0].cpus, sum(place.threads for place in places)),
        watts=option(cfg.task, "device_watts"),
    )
    counters = counters_of(devices)
    return NodeEnergy(folder_of(cfg), name, counters, len(places)) if counters else None


def energy_words(node: Optional[NodeEnergy]) -> str:
    """What is read of rank 0's machine."""
    if node is None:
        return "unknown: no counter can be read, and no rated power is known. Set --device-watts"
    return f"{MEASURED if node.is_measured else ESTIMATED}: {node.source}"
