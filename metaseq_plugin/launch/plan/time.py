"""How long a run takes: tokens a second and days, at a rate of hardware FLOPs that every rank keeps.

tokens/s = ranks · rate / hardware FLOPs of a token
days     = tokens / (tokens/s) / 86,400
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.planned import Planned
from metaseq_plugin.launch.plan.utilisation import Rate

DAY = 86_400.0


class Time(NamedTuple):
    """Speeds of the whole run.

    Attributes:
        rate: of a rank.
        model_rate: model FLOPs a second of a rank: without what is recomputed.
        tokens_per_second: of all ranks; fairseq's ``wps``.
        update_seconds: of one update.
        days: of computing, nothing lost.
    """

    rate: Rate
    model_rate: float
    tokens_per_second: float
    update_seconds: float
    days: float

    @property
    def seconds(self) -> float:
        return self.days * DAY


def time_of(planned: Planned, rate: Rate) -> Time:
    """The formulas above."""
    speed = planned.num_ranks * rate.flops / planned.hardware_flops
    return Time(
        rate=rate,
        model_rate=rate.flops * planned.flops.training / planned.hardware_flops,
        tokens_per_second=speed,
        update_seconds=planned.batch.batch_tokens / speed,
        days=planned.tokens / speed / DAY,
    )
