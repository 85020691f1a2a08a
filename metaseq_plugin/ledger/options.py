"""The options of the ledger, which every task of ours has: its config inherits ``LedgerOptions``."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Optional

from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger.carbon import INTENSITIES, INTENSITY, intensity_of
from metaseq_plugin.ledger.energy import PUE

INTERVAL = 10


@dataclass
class LedgerOptions(FairseqDataclass):
    """What the run writes of itself."""

    no_ledger: bool = field(
        default=False, metadata={"help": "do not keep the run's ledger in the folder of --save-dir"}
    )
    ledger_interval: int = field(
        default=INTERVAL,
        metadata={"help": "updates that one line of the ledger's numbers covers"},
    )
    metrics_file: Optional[str] = field(
        default=None,
        metadata={"help": "file of the run's numbers for Prometheus, replaced at every log line"},
    )
    mlflow_experiment: Optional[str] = field(
        default=None,
        metadata={
            "help": "MLflow experiment that log lines are sent to; MLFLOW_TRACKING_URI says where"
        },
    )
    device_watts: Optional[float] = field(
        default=None,
        metadata={
            "help": "power of a device, where no counter of energy can be read; default: its rated power"
        },
    )
    pue: float = field(
        default=PUE,
        metadata={"help": "energy of the building over that of the devices, for the run's report"},
    )
    carbon_intensity: str = field(
        default=f"{INTENSITY:g}",
        metadata={"help": f"g CO2e/kWh for the run's report, or one of {', '.join(INTENSITIES)}"},
    )


def option(task: Any, name: str) -> Any:
    """An option of ``cfg.task``; of a task that is not ours, the default."""
    return task[name] if name in task else LedgerOptions.__dataclass_fields__[name].default


def check_options(task: Any) -> None:
    """Refuse what no ledger can follow, in one sentence each."""
    problems = list(wrong_options(task))
    if problems:
        raise UserError(*problems)
    intensity_of(option(task, "carbon_intensity"), "--carbon-intensity")


def wrong_options(task: Any) -> Iterator[str]:
    """A sentence for each option out of its range."""
    interval = option(task, "ledger_interval")
    if interval < 1:
        yield (
            f"`--ledger-interval` must be at least 1, but is {interval}. Set {INTERVAL}, or --no-ledger "
            "to keep none."
        )
    watts = option(task, "device_watts")
    if watts is not None and not 0 < watts < math.inf:
        yield f"`--device-watts` must be above 0, but is {watts:g}. Set the device's rated power."
    pue = option(task, "pue")
    if not 1 <= pue < math.inf:
        yield f"`--pue` must be at least 1, but is {pue:g}. LLaMA's paper assumed {PUE:g}."
    metrics_file = option(task, "metrics_file")
    if metrics_file is not None and option(task, "no_ledger"):
        yield "`--metrics-file` must come without --no-ledger, but both are set. Leave one out."
    if metrics_file is not None and not Path(metrics_file).parent.is_dir():
        yield (
            f"`--metrics-file` must be in a folder that exists, but is {metrics_file}. Make the folder, "
            "or set another."
        )
