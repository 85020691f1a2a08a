"""How much of its peak a device reaches while it trains: published shares, a stated one, or that of a run.

    published("a100-80gb", 174.6e9)     # 0.471, OPT-175B's own
    stated(0.4, planned)                # --mfu
    measured(Path("runs/a"))            # --measured

What carries over from run to run is taken to be the rate of hardware FLOPs, recomputation counted: a run that
recomputes makes fewer tokens of the same rate. A published share holds all that its run lost on the way: exchange,
waiting for data, small kernels. It is of its code and its cluster; a rate that was measured on yours is better.
"""

import math
from typing import NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.plan.planned import Planned


class Rate(NamedTuple):
    """Hardware FLOPs a second of one rank, and where that is from."""

    flops: float
    source: str


class Published(NamedTuple):
    """One row: a share of the 16-bit peak, hardware FLOPs (HFU; MFU where nothing was recomputed)."""

    device: str
    parameters: float
    hfu: float
    source: str


OPT = "OPT-175B on 992 A100s: 147 of 312 TFLOP/s, arXiv:2205.01068"
FOUNDRY = "llm-foundry's table, scripts/train/benchmarking"
LLM_C = "llm.c on 8 H100s"
MEGATRON = "Megatron-LM's README, 2,304 H100s"

# fmt: off
PUBLISHED = (
    Published("a100-80gb", 125e6, 0.448, FOUNDRY),
    Published("a100-80gb", 350e6, 0.516, FOUNDRY),
    Published("a100-80gb", 760e6, 0.569, FOUNDRY),
    Published("a100-80gb", 1.3e9, 0.599, FOUNDRY),
    Published("a100-80gb", 3e9,   0.621, FOUNDRY),
    Published("a100-80gb", 7e9,   0.642, FOUNDRY),
    Published("a100-80gb", 13e9,  0.596, FOUNDRY),
    Published("a100-80gb", 30e9,  0.737, FOUNDRY),  # MFU 0.553, all recomputed
    Published("a100-80gb", 70e9,  0.711, FOUNDRY),  # MFU 0.533, all recomputed
    Published("a100-80gb", 175e9, 147 / 312, OPT),
    Published("h100-sxm",  124e6, 0.407, LLM_C),
    Published("h100-sxm",  350e6, 0.44,  LLM_C),
    Published("h100-sxm",  760e6, 0.349, FOUNDRY),
    Published("h100-sxm",  1.3e9, 0.418, FOUNDRY),
    Published("h100-sxm",  3e9,   0.437, FOUNDRY),
    Published("h100-sxm",  7e9,   0.464, FOUNDRY),
    Published("h100-sxm",  13e9,  0.398, FOUNDRY),
    Published("h100-sxm",  30e9,  0.586, FOUNDRY),  # MFU 0.439, all recomputed
    Published("h100-sxm",  70e9,  0.578, FOUNDRY),  # MFU 0.434, all recomputed
    Published("h100-sxm",  177e9, 432.8 / 989, MEGATRON),
)
# fmt: on
# Devices of the same peak as one that has rows.
LIKE = {"a100-40gb": "a100-80gb", "h200": "h100-sxm"}


def published(device: str, parameters: float) -> Published:
    """The row of ``device`` whose size is nearest, as a ratio.

    Raises:
        UserError: nothing was published of the device.
    """
    rows = [row for row in PUBLISHED if row.device == LIKE.get(device, device)]
    if not rows:
        known = sorted({row.device for row in PUBLISHED} | LIKE.keys())
        raise UserError(
            f"`--gpu` must have a published utilisation ({', '.join(known)}), but is {device}. "
            "Set --mfu, or --measured RUN."
        )
    return min(rows, key=lambda row: abs(math.log(row.parameters / parameters)))


def published_rate(planned: Planned) -> Rate:
    """The rate at the published share; in fp32, where nothing is published, that share of the fp32 peak."""
    assert planned.device is not None
    row = published(planned.device.name, planned.num_parameters)
    note = "" if row.device == planned.device.name else f", taken on the {row.device}"
    if planned.settings.precision == "fp32":
        note += ", in 16 bits"
    return Rate(row.hfu * planned.peak, f"{row.source}{note}")


def stated_rate(mfu: float, planned: Planned) -> Rate:
    """The rate at a share of model FLOPs, attention as a full square.

    Raises:
        UserError: a share that is none.
    """
    if not 0 < mfu <= 1:
        raise UserError(
            f"`--mfu` must be above 0 and at most 1, but is {mfu:g}. OPT-175B's was 0.354."
        )
    again = planned.hardware_flops / planned.flops.training
    return Rate(mfu * planned.peak * again, f"--mfu {mfu:g}")


def rate(planned: Planned, mfu: Optional[float] = None) -> Rate:
    """The stated rate if there is one, otherwise the published."""
    return published_rate(planned) if mfu is None else stated_rate(mfu, planned)
