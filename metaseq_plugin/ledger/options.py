"""The options of the ledger, which every task of ours has: its config inherits ``LedgerOptions``."""

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Iterator, Optional

from fairseq.dataclass import FairseqDataclass

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import FULLY_SHARDED
from metaseq_plugin.ledger.carbon import INTENSITIES, INTENSITY, intensity_of
from metaseq_plugin.ledger.energy import PUE

INTERVAL = 10


class OnSpike(str, Enum):
    """What becomes of a run whose loss or gradient spikes."""

    log = "log"
    skip = "skip"
    rewind = "rewind"
    stop = "stop"


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

    # What is watched while it trains (``ledger/watch.py``).
    on_spike: OnSpike = field(
        default=OnSpike.log,
        metadata={
            "help": "an update whose loss or gradient norm spikes: log: is made, and told; skip: is not made; "
            "rewind: the run goes back to the last good checkpoint, and past the batches around it; stop: the run ends"
        },
    )
    spike_z: float = field(
        default=8.0,
        metadata={
            "help": "how far above the expected a spike is at least, in robust standard deviations"
        },
    )
    spike_window: int = field(
        default=128, metadata={"help": "updates that the standard deviation is taken from"}
    )
    rewind_skip: int = field(
        default=10,
        metadata={
            "help": "updates whose batches a rewind goes past, half of them before the spike"
        },
    )
    rewind_lr_factor: float = field(
        default=1.0,
        metadata={
            "help": "what each rewind multiplies the learning rate by, from its checkpoint on"
        },
    )
    max_rewinds: int = field(
        default=3, metadata={"help": "rewinds of a run; the spike after the last one ends it"}
    )
    find_nonfinite: bool = field(
        default=False,
        metadata={
            "help": "name the first module and parameter where the loss or a gradient becomes NaN or infinite, "
            "by computing that update once more"
        },
    )
    log_norms: int = field(
        default=0,
        metadata={
            "help": "log the norms of each layer's activations, weights and gradients every so many updates; 0: never"
        },
    )
    log_noise_scale: int = field(
        default=0,
        metadata={
            "help": "estimate the gradient noise scale every so many updates, from micro-batches of --update-freq or "
            "of several data-parallel ranks; 0: never"
        },
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


# Schedules that set the rate anew at each update, so that a factor of it does not add up.
SETTING_ANEW = (
    "cosine", "fixed", "inverse_sqrt", "polynomial_decay", "step", "tri_stage", "triangular",
)  # fmt: skip


def check_watching(cfg: Any) -> None:
    """Refuse what nobody can watch by, all problems in one message; ``cfg`` is of the whole run, its task ours."""
    task = cfg.task
    problems = [
        f"`--{name.replace('_', '-')}` must be {rule}, but is {task[name]}. {remedy}"
        for name, rule, is_good, remedy in (
            ("spike_z", "above 0", task.spike_z > 0, "Set 8."),
            ("spike_window", "at least 32", task.spike_window >= 32, "Set 128."),
            ("rewind_skip", "at least 1", task.rewind_skip >= 1, "Set 10."),
            ("rewind_lr_factor", "above 0 and at most 1", 0 < task.rewind_lr_factor <= 1, "Set 1 to keep the rate."),
            ("max_rewinds", "at least 1", task.max_rewinds >= 1, "Set --on-spike stop for none."),
            ("log_norms", "at least 0", task.log_norms >= 0, "Set 100, or 0 for none."),
            ("log_noise_scale", "at least 0", task.log_noise_scale >= 0, "Set 10, or 0 for none."),
        )
        if not is_good
    ]  # fmt: skip
    policy = OnSpike(task.on_spike)
    logged = [name for name in ("log_norms", "log_noise_scale") if task[name]]
    if task.no_ledger and (policy is not OnSpike.log or logged):
        given = (
            f"--on-spike {policy.value}"
            if policy is not OnSpike.log
            else f"--{logged[0].replace('_', '-')}"
        )
        problems.append(f"`--no-ledger` must be left out with {given}, but is set. Leave it out.")
    if cfg.checkpoint.no_save and policy is OnSpike.rewind:
        problems.append(
            "`--no-save` must be left out with --on-spike rewind, but is set. Leave it out, or set skip."
        )
    schedule = cfg.lr_scheduler._name
    if task.rewind_lr_factor != 1 and schedule not in SETTING_ANEW:
        problems.append(
            f"`--rewind-lr-factor` must be 1 with --lr-scheduler {schedule}, but is {task.rewind_lr_factor}. "
            "Set another schedule, polynomial_decay for example."
        )
    if task.log_noise_scale > 0:
        problems += small_batches(cfg)
    if problems:
        raise UserError(*problems)


# Backends with which each rank has a gradient of its own that is that of its batch, and is reduced once an update.
REDUCING = ("pytorch_ddp", "c10d", "legacy_ddp", "no_c10d")


def small_batches(cfg: Any) -> Iterator[str]:
    """Why ``cfg`` has no small batches whose gradients can be told from the large one's."""
    option, parallel = "`--log-noise-scale`", cfg.distributed_training
    backend, is_alone = str(parallel.ddp_backend), min(cfg.optimization.update_freq) == 1
    ranks = parallel.distributed_world_size // max(cfg.common.model_parallel_size, 1)
    if backend not in (*REDUCING, FULLY_SHARDED) or cfg.optimization.use_bmuf:
        yield (
            f"{option} must come with ranks that reduce their gradients at every update, but --ddp-backend is {backend}"
            f"{' with --use-bmuf' * cfg.optimization.use_bmuf}. Set pytorch_ddp, or leave it out."
        )
    elif backend == FULLY_SHARDED and is_alone:
        yield (
            f"{option} must come with --update-freq 2 or more where --ddp-backend is fully_sharded, but that is 1: no "
            "rank ever has its own batch's gradient whole. Set it, or leave --log-noise-scale out."
        )
    elif ranks == 1 and is_alone:
        yield (
            f"{option} must come with --update-freq 2 or more, or several data-parallel ranks, but both are 1: an "
            "update has no smaller batches. Set --update-freq 2, or leave it out."
        )
    if "sequence_parallel" in cfg.model and cfg.model.sequence_parallel:
        yield (
            f"{option} must come without --sequence-parallel, but both are set: ranks that cut the tokens have parts "
            "of a micro-batch's gradient. Leave one out."
        )
