"""What a rank will hold while it trains, in bytes, at each moment of an update; the largest is its peak.

    plan = memory(SIZES["175b"], LAYOUTS["175b"], MemorySettings(batch_size=8, precision="fp16", …))
    plan.peak, plan.at_peak.name, fits(plan, 80 * 10**9)

Formulas only: nothing is built, and torch is not imported.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.rank_bytes import rank_bytes
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import OPTSize


class Moment(NamedTuple):
    """What a rank holds on its device at one moment of an update, in bytes, by what it is.

    Attributes:
        name: "forward", "loss", "backward", "embedding" or "update".
        parameters, gradients, optimizer: the states; between two updates nothing else is there.
        gathered: parameters as they are computed with: whole layers and the embedding, under FSDP.
        gradient_buffers: gradients before they are averaged over ranks, and DDP's buckets.
        activations: what forward keeps for backward.
        recomputed: of the layer whose backward runs: activations computed again, and their gradients.
        loss: logits of a chunk, and the gradients that the loss takes.
        workspace: what only one operation needs.
    """

    name: str
    parameters: int
    gradients: int
    optimizer: int
    gathered: int = 0
    gradient_buffers: int = 0
    activations: int = 0
    recomputed: int = 0
    loss: int = 0
    workspace: int = 0

    @property
    def total(self) -> int:
        return sum(self[1:])


class Memory(NamedTuple):
    """All moments of an update, and what --cpu-offload and --offload-activations put into CPU memory."""

    moments: tuple[Moment, ...]
    host: int = 0

    @property
    def at_peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        return self.at_peak.total


def memory(size: OPTSize, layout: Layout, settings: MemorySettings, rank: int = 0) -> Memory:
    """What ``rank`` will hold; rank 0 holds no less than any other."""
    states = rank_bytes(size, layout, rank, settings.vocab_size, settings.position_rows)
    return Memory((Moment("update", *states),))


def fits(plan: Memory, device_bytes: int, baseline: int = 0) -> bool:
    """Whether the peak, and ``baseline`` bytes that a process needs before its model, fit on a device."""
    return headroom(plan, device_bytes, baseline) >= 0


def headroom(plan: Memory, device_bytes: int, baseline: int = 0) -> int:
    """Bytes of the device that stay free at the peak; negative: so many are missing."""
    return device_bytes - baseline - plan.peak
