"""The numbers of a run as a file for Prometheus: node_exporter's textfile collector reads ``*.prom`` files of a folder.

    fairseq-train … --metrics-file /var/lib/node_exporter/textfile/opt.prom

    metaseq_train_tokens_total{run="runs/a"} 524288

Rank 0 writes it at every log line; it is replaced at once, so that nobody reads a half. A number that is not known has no
line. Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4).
"""

import math
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional

from metaseq_plugin.storage import atomic


class Metric(NamedTuple):
    """One line: the key of a log line, its name here, and what it is."""

    key: str
    name: str
    kind: str
    help: str


METRICS = (
    Metric("num_updates", "updates_total", "counter", "Updates that the model has had."),
    Metric("tokens", "tokens_total", "counter", "Tokens that it was trained on."),
    Metric("loss", "loss_bits", "gauge", "Mean cross-entropy of a token, in bits."),
    Metric("gnorm", "gradient_norm", "gauge", "Norm of the gradient before clipping."),
    Metric("lr", "learning_rate", "gauge", "Learning rate."),
    Metric("loss_scale", "loss_scale", "gauge", "What an fp16 loss is multiplied by."),
    Metric("wps", "tokens_per_second", "gauge", "Tokens a second of all ranks."),
    Metric("tflops", "device_tflops", "gauge", "Model FLOPs a second of a device, in 1e12."),
    Metric("mfu", "mfu_ratio", "gauge", "Model FLOPs over the device's peak."),
    Metric("hfu", "hfu_ratio", "gauge", "Hardware FLOPs over the device's peak."),
    Metric("kwh", "energy_kwh_total", "counter", "Energy of the devices, measured."),
    Metric("kwh_estimated", "energy_estimated_kwh_total", "counter", "Energy of the devices, estimated."),
    Metric("eta", "eta_seconds", "gauge", "Until the run ends by its options."),
)  # fmt: skip
TIME = Metric("", "last_line_timestamp_seconds", "gauge", "When these numbers were logged.")


def metrics_text(run: str, numbers: Mapping[str, Any], now: float) -> str:
    """All lines; ``numbers`` are those of a log line, ``now`` in seconds since 1970."""
    values = {metric: value_of(numbers.get(metric.key)) for metric in METRICS}
    known = {metric: value for metric, value in values.items() if value is not None}
    return "".join(line for item in {**known, TIME: now}.items() for line in lines(run, *item))


def lines(run: str, metric: Metric, value: float) -> Iterator[str]:
    name = f"metaseq_train_{metric.name}"
    yield f"# HELP {name} {metric.help}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    yield f'{name}{{run="{escaped(run)}"}} {value!r}\n'


def value_of(number: Any) -> Optional[float]:
    """A finite number, or None: fairseq has numbers, and tensors of one."""
    if number is None:
        return None
    value = float(number)
    return value if math.isfinite(value) else None


def escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write_metrics(path: Path, run: str, numbers: Mapping[str, Any]) -> None:
    """Replace the file; it need not survive a power cut.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = atomic.temporary(path)
    unfinished.write_text(metrics_text(run, numbers, time.time()), "utf-8")
    atomic.rename(unfinished, path)
