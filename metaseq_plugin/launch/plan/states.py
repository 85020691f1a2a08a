"""Parameters, gradients and optimizer state of a rank between two updates, whatever shares them out.

n parameters of a model part; P parameter tensors, of which AdamW counts the updates in 4 bytes each.

    bytes                         parameters   gradients        optimizer
    fully_sharded, any precision  ``rank_bytes``: 4, 4 and 8 of a shard
    fp32                          4·n          4·n              8·n + 4·P
    fp16, bf16                    2·n          2·n + 4·n        4·n + 8·n + 4·P   with master weights in fp32
    memory_efficient_…            2·n          2·n              8·n + 4·P
    DDP's buckets, on top, where several ranks have the same part: a second copy of the gradients that backward makes

Gradients are dropped after an update, but for the master weights', which are only set to 0.
"""

from typing import NamedTuple

from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.rank_bytes import num_tensors, rank_bytes, rank_elements
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.optim.fp32_copies import ELEMENTS_IN_FP32
from metaseq_plugin.sizes import OPTSize


class States(NamedTuple):
    """Bytes on a rank.

    Attributes:
        kept_gradients: of the gradients, what stays there from update to update.
        buckets: DDP's.
        workspace: what the update takes for itself.
    """

    parameters: int
    gradients: int
    optimizer: int
    kept_gradients: int = 0
    buckets: int = 0
    workspace: int = 0


def states(size: OPTSize, layout: Layout, settings: MemorySettings, rank: int) -> States:
    """The table above; shards only with fully_sharded."""
    vocabulary = settings.vocab_size, settings.position_rows
    if settings.fully_sharded:
        return States(*rank_bytes(size, layout, rank, *vocabulary))
    whole = Layout(layout.model_parallel_size)
    n = sum(rank_elements(size, whole, rank % layout.model_parallel_size, *vocabulary))
    c = settings.compute_bytes
    optimizer = 8 * n + 4 * num_tensors(size)
    buckets = c * n if layout.data_parallel_size > 1 else 0
    if c == 4:
        return States(4 * n, 4 * n, optimizer, 0, buckets)
    if settings.precision.startswith("memory_efficient"):
        largest = size.embed_dim * max(size.ffn_embed_dim, settings.vocab_size)
        copied = min(n, max(largest, ELEMENTS_IN_FP32))  # a tensor is not copied in parts
        return States(c * n, c * n, optimizer, 0, buckets, 2 * 4 * copied)
    return States(c * n, (c + 4) * n, 4 * n + optimizer, 4 * n, buckets)
