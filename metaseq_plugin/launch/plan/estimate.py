"""All that a plan says, as one value: what ``report.py`` prints and ``--json`` writes.

result = estimate(planned, Assumptions())
result.time.days, result.carbon_kg, result.as_json()["flops"]["total"]
"""

from typing import Any, NamedTuple, Optional

from metaseq_plugin.launch.plan.checkpoints import (
    DEVICE_MTBF_HOURS,
    RESTART_SECONDS,
    WRITE_RATE,
    Checkpoints,
    checkpoints,
)
from metaseq_plugin.launch.plan.communication import Exchange, exchange
from metaseq_plugin.launch.plan.memory import Memory
from metaseq_plugin.launch.plan.planned import Planned
from metaseq_plugin.launch.plan.time import Time, time_of
from metaseq_plugin.launch.plan.utilisation import Rate, rate
from metaseq_plugin.ledger.carbon import INTENSITY, emitted
from metaseq_plugin.ledger.energy import PUE, Energy, energy

HOUR = 3600.0


class Assumptions(NamedTuple):
    """What a plan cannot know.

    Attributes:
        mfu: None: the published share.
        measured: the rate of a run; before all else.
        mtbf_hours: of the whole run; None: ``device_mtbf_hours`` over the devices.
        write_rate: bytes/s of a rank.
        power_share: mean power as a share of the rated.
        intensity: g/kWh.
    """

    mfu: Optional[float] = None
    measured: Optional[Rate] = None
    mtbf_hours: Optional[float] = None
    device_mtbf_hours: float = DEVICE_MTBF_HOURS
    write_rate: float = WRITE_RATE
    restart_seconds: float = RESTART_SECONDS
    pue: float = PUE
    power_share: float = 1.0
    intensity: float = INTENSITY


class Estimate(NamedTuple):
    """The parts of a plan; ``energy`` and ``carbon_kg`` are None where no device was named.

    Attributes:
        memories: by what is changed, the plan's own first.
        total_flops: hardware FLOPs of all tokens.
        wall_days: with saves, failures and what is computed again.
    """

    planned: Planned
    assumed: Assumptions
    memories: dict[str, Memory]
    time: Time
    exchange: Exchange
    checkpoints: Checkpoints
    total_flops: float
    wall_days: float
    energy: Optional[Energy]
    carbon_kg: Optional[float]

    @property
    def memory(self) -> Memory:
        return next(iter(self.memories.values()))

    @property
    def fits(self) -> Optional[bool]:
        """Whether the peak fits; None where no device was named."""
        device = self.planned.device
        return None if device is None else self.memory.peak <= device.memory

    def as_json(self) -> dict[str, Any]:
        """Plain values: bytes, seconds, FLOPs, kWh, kg."""
        planned, saves = self.planned, self.checkpoints
        flops, causal = planned.flops, planned.flops_by(causal=True)
        hides = self.time.update_seconds
        return {
            "arch": planned.arch,
            "parameters": planned.num_parameters,
            "ranks": planned.num_ranks,
            "model_parallel_size": planned.model_parallel_size,
            "data_parallel_size": planned.data_parallel_size,
            "device": None if planned.device is None else planned.device.name,
            "batch": planned.batch._asdict(),
            "tokens": planned.tokens,
            "updates": planned.num_updates,
            "settings": planned.settings._asdict(),
            "memory": {
                name: {
                    "peak": each.peak,
                    "at": each.at_peak.name,
                    "moments": [moment._asdict() for moment in each.moments],
                    "host": each.host,
                }
                for name, each in self.memories.items()
            },
            "fits": self.fits,
            "flops": {
                "model_per_token": flops.training,
                "model_per_token_causal": causal.training,
                "hardware_per_token": planned.hardware_flops,
                "hardware_per_token_causal": causal.hardware(planned.recomputed_share),
                "total": self.total_flops,
            },
            "time": {
                "rate": self.time.rate.flops,
                "model_rate": self.time.model_rate,
                "from": self.time.rate.source,
                "tokens_per_second": self.time.tokens_per_second,
                "update_seconds": self.time.update_seconds,
                "days": self.time.days,
                "wall_days": self.wall_days,
            },
            "exchange": {
                "sent": [each._asdict() for each in self.exchange.sent],
                "seconds": self.exchange.seconds,
                "hidden_share": self.exchange.hidden_share(hides),
            },
            "checkpoints": saves._asdict(),
            "energy": None
            if self.energy is None
            else {**self.energy._asdict(), "pue": self.assumed.pue},
            "carbon": None
            if self.carbon_kg is None
            else {"kg": self.carbon_kg, "g_per_kwh": self.assumed.intensity},
        }


def estimate(planned: Planned, assumed: Assumptions) -> Estimate:
    """Everything, from the run and what is assumed of its world."""
    known = assumed.measured or rate(planned, assumed.mfu)
    time = time_of(planned, known)
    mtbf_hours = assumed.mtbf_hours or assumed.device_mtbf_hours / planned.num_ranks
    saves = checkpoints(planned, mtbf_hours * HOUR, assumed.write_rate, assumed.restart_seconds)
    trains = 1 - saves.lost_share
    wall_days = time.days / trains if trains > 0 else float("inf")
    used = None
    if planned.device is not None:
        hours = planned.num_ranks * wall_days * 24
        used = energy(hours, planned.device.watts, assumed.pue, assumed.power_share)
    return Estimate(
        planned=planned,
        assumed=assumed,
        memories=variants(planned),
        time=time,
        exchange=exchange(planned),
        checkpoints=saves,
        total_flops=planned.tokens * planned.hardware_flops,
        wall_days=wall_days,
        energy=used,
        carbon_kg=None if used is None else emitted(used.facility_kwh, assumed.intensity),
    )


def variants(planned: Planned) -> dict[str, Memory]:
    """The plan's own memory, and what it would be with one setting the other way."""
    settings = planned.settings
    others = {"planned": settings}
    recomputes = settings.checkpoint_activations
    other = settings._replace(checkpoint_activations=not recomputes, checkpoint_layers=None)
    others["kept" if recomputes else "recomputed"] = other._replace(recompute="whole")
    if settings.is_selective or settings.checkpoint_layers is not None:
        others["all whole"] = settings._replace(checkpoint_layers=None, recompute="whole")
    if planned.model_parallel_size > 1:
        cuts = settings.sequence_parallel
        others["tokens whole" if cuts else "tokens cut"] = settings._replace(
            sequence_parallel=not cuts
        )
    else:  # model parts train with the chunked loss only
        chunked = settings.chunked_loss
        others["plain loss" if chunked else "chunked loss"] = settings._replace(
            chunked_loss=not chunked
        )
    return {name: planned._replace(settings=changed).memory() for name, changed in others.items()}
