"""What a plan is of: a model, the ranks that share it, the batch of an update, and the device of a rank.

planned.flops.training, planned.num_updates, planned.memory().peak
"""

from typing import NamedTuple, Optional

from metaseq_plugin.launch.batch import Batch
from metaseq_plugin.launch.plan.memory import Memory, memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.rank_bytes import rank_elements
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.ledger.flops import Flops, model_flops
from metaseq_plugin.ledger.rates import Device
from metaseq_plugin.sizes import OPTSize


class Planned(NamedTuple):
    """One way to train a model.

    Attributes:
        arch: as fairseq-train's ``--arch`` has it.
        num_ranks: in all; those of one node are ``ranks_per_node``.
        model_parallel_size: model parts.
        batch: of an update; its ``batch_size`` and ``update_freq`` are ``settings``', too.
        tokens: to train on.
        settings: all else that decides about memory.
        asked_tokens: the batch that was asked for, where it is another than ``batch``'s; otherwise 0.
        device: None: not said, as for a CPU; then nothing is said of what it can do.
    """

    arch: str
    size: OPTSize
    num_ranks: int
    ranks_per_node: int
    model_parallel_size: int
    batch: Batch
    tokens: float
    settings: MemorySettings
    device: Optional[Device] = None
    asked_tokens: int = 0

    @property
    def data_parallel_size(self) -> int:
        return self.num_ranks // self.model_parallel_size

    @property
    def num_nodes(self) -> int:
        return -(-self.num_ranks // self.ranks_per_node)

    @property
    def layout(self) -> Layout:
        shards = self.data_parallel_size if self.settings.fully_sharded else 1
        return Layout(self.model_parallel_size, shards, self.data_parallel_size)

    @property
    def num_parameters(self) -> int:
        return part_elements(self, 1)

    @property
    def num_updates(self) -> int:
        """As many as the tokens fill, at least one."""
        return max(1, int(self.tokens) // self.batch.batch_tokens)

    @property
    def flops(self) -> Flops:
        """A token's, attention as a full square."""
        return self.flops_by(causal=False)

    def flops_by(self, causal: bool) -> Flops:
        return model_flops(
            self.size,
            self.settings.tokens_per_sample,
            self.settings.vocab_size,
            causal,
            self.settings.dropout,
        )

    @property
    def hardware_flops(self) -> float:
        """A token's, with what this run recomputes."""
        return self.flops.hardware(self.recomputed_share)

    @property
    def recomputed_share(self) -> float:
        """Of the layers, those that are run again."""
        return self.settings.layers_run_again(self.size.layers) / self.size.layers

    @property
    def peak(self) -> float:
        """Operations a second of the device in the type that is computed with; it must be known."""
        assert self.device is not None, "no device was named"
        return self.device.peak(self.settings.precision.removeprefix("memory_efficient_"))

    def memory(self) -> Memory:
        """What rank 0, of which no other holds more, will hold."""
        return memory(self.size, self.layout, self.settings)


def part_elements(planned: Planned, model_parallel_size: int) -> int:
    """Parameters of one of so many model parts, before any sharding; 1: of the model."""
    settings = planned.settings
    return sum(
        rank_elements(
            planned.size,
            Layout(model_parallel_size, 1),
            rank=0,
            vocab_size=settings.vocab_size,
            position_rows=settings.position_rows,
        )
    )
