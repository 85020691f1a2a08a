"""How large a checkpoint is, how often to save, and how much time failures take.

    bytes = model parts · elements of a part · (bytes of weights, masters and moments)

Legend: δ seconds that a save stops training, M mean time between failures of the whole run, R seconds until a failed
run goes on, τ seconds of training between two saves.

    τ = √(2·δ·M)                                                  Young 1974 (doi:10.1145/361147.361115)
    τ = √(2·δ·M)·(1 + ⅓·√(δ/2M) + ⅑·(δ/2M)) - δ, M where δ ≥ 2M   Daly 2006 (doi:10.1016/j.future.2004.11.016), (37)
    share of time that trains = τ / (M·e^(R/M)·(e^((τ+δ)/M) - 1))        the same, (20)

M is MTBF of a device / devices, where failures come independently of each other.
"""

import math
from typing import NamedTuple

from metaseq_plugin.launch.plan.planned import Planned, part_elements

# Device-hours between failures: 992 A100s, 35 restarts by hand and about 70 by themselves in about two months
# (Zhang et al. 2022, arXiv:2205.01068, section 2.5): 992 · 60 · 24 / 105.
DEVICE_MTBF_HOURS = 992 * 60 * 24 / 105
# Bytes/s that a rank writes: torch.save of fp32 tensors to memory on one core took 0.8 to 0.9 GB/s.
WRITE_RATE = 0.8e9
# Until a failed run trains again; MegaScale (Jiang et al. 2024, arXiv:2402.15627) says less than 15 minutes.
RESTART_SECONDS = 15 * 60.0

# Bytes of an element in the files: weights, which are saved in fp32 whatever they are, and two fp32 moments; and fp32
# masters beside 16-bit weights, of which FSDP has none.
PLAIN, WITH_MASTERS = 4 + 8, 4 + 4 + 8


class Checkpoints(NamedTuple):
    """Saves of a run.

    Attributes:
        num_bytes: of all files of one save.
        num_writers: ranks that write at the same time, as many bytes each.
        save_seconds: δ.
        mtbf_seconds: M.
        interval_seconds: τ by Daly; ``young_seconds`` by Young.
        lost_share: of the wall-clock time: saving, what is computed again, starting again.
    """

    num_bytes: float
    num_writers: int
    save_seconds: float
    mtbf_seconds: float
    young_seconds: float
    interval_seconds: float
    lost_share: float


def element_bytes(planned: Planned) -> int:
    """Of an element in the files (``optim/adamw.py`` says what has masters)."""
    settings = planned.settings
    has_masters = settings.precision in ("bf16", "fp16") and not settings.fully_sharded
    return WITH_MASTERS if has_masters else PLAIN


def checkpoints(
    planned: Planned,
    mtbf_seconds: float,
    write_rate: float = WRITE_RATE,
    restart_seconds: float = RESTART_SECONDS,
) -> Checkpoints:
    """Size, interval and loss."""
    parts = planned.model_parallel_size
    num_bytes = parts * part_elements(planned, parts) * element_bytes(planned)
    writers = planned.layout.num_ranks
    save = num_bytes / writers / write_rate
    interval = daly(save, mtbf_seconds)
    return Checkpoints(
        num_bytes=num_bytes,
        num_writers=writers,
        save_seconds=save,
        mtbf_seconds=mtbf_seconds,
        young_seconds=young(save, mtbf_seconds),
        interval_seconds=interval,
        lost_share=lost_share(interval, save, mtbf_seconds, restart_seconds),
    )


def young(save: float, mtbf: float) -> float:
    """τ by Young, in the unit of the arguments."""
    return math.sqrt(2 * save * mtbf)


def daly(save: float, mtbf: float) -> float:
    """τ by Daly."""
    if save >= 2 * mtbf:
        return mtbf
    ratio = save / (2 * mtbf)
    return math.sqrt(2 * save * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def lost_share(interval: float, save: float, mtbf: float, restart: float) -> float:
    """Of the time, what trains nothing that lasts; 1 where failures come faster than anything is done."""
    exponent = (interval + save) / mtbf
    if exponent > 700 or restart / mtbf > 700:  # where e^x overflows
        return 1.0
    trains = interval / (mtbf * math.exp(restart / mtbf) * math.expm1(exponent))
    return 1.0 - trains
