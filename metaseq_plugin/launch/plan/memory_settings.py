"""What of a run's options decides about the memory of a rank, by fairseq-train's names.

    settings = MemorySettings(batch_size=8, precision="fp16", checkpoint_activations=True)

Where a name differs from the option's it is said below. Defaults are those of the options, but for the backend and
the device, which are the ones that a plan is for.
"""

from typing import NamedTuple, Optional

from metaseq_plugin.launch.rank_bytes import POSITION_ROWS
from metaseq_plugin.ledger.flops import VOCAB_SIZE
from metaseq_plugin.sizes import MAX_POSITIONS

RECOMPUTES = ("whole", "selective")
PRECISIONS = ("fp32", "bf16", "fp16", "memory_efficient_bf16", "memory_efficient_fp16")


class MemorySettings(NamedTuple):
    """Options of a run.

    Attributes:
        batch_size: sequences of one micro-batch on a data-parallel rank.
        update_freq: micro-batches of an update; from the second one on gradients are there already.
        tokens_per_sample: tokens of each.
        precision: one of ``PRECISIONS``.
        fully_sharded: ``--ddp-backend fully_sharded``; otherwise plain data parallelism.
        reshard_after_forward: False: ``--no-reshard-after-forward`` (ZeRO-2).
        checkpoint_layers: None: all of them.
        recompute: one of ``RECOMPUTES``.
        chunked_loss: ``--criterion chunked_cross_entropy``; otherwise ``cross_entropy``.
        on_gpu: kernels, and what an allocation is rounded to, are a GPU's; otherwise a CPU's.
        vocab_size, position_rows: of the dictionary and of the position table.
    """

    batch_size: int = 1
    update_freq: int = 1
    tokens_per_sample: int = MAX_POSITIONS
    precision: str = "fp32"
    fully_sharded: bool = True
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    checkpoint_activations: bool = False
    checkpoint_layers: Optional[int] = None
    recompute: str = "whole"
    offload_activations: bool = False
    sequence_parallel: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    chunked_loss: bool = True
    loss_chunk_tokens: int = 0
    on_gpu: bool = True
    vocab_size: int = VOCAB_SIZE
    position_rows: int = POSITION_ROWS

    @property
    def num_tokens(self) -> int:
        """N = B·T, of a micro-batch."""
        return self.batch_size * self.tokens_per_sample

    @property
    def is_selective(self) -> bool:
        """Whether checkpointed layers keep the results of products."""
        return self.recompute == "selective"

    def checkpointed_layers(self, layers: int) -> int:
        """How many of so many layers, the first of them, keep less for backward."""
        if not self.checkpoint_activations:
            return 0
        return layers if self.checkpoint_layers is None else self.checkpoint_layers

    def layers_run_again(self, layers: int) -> int:
        """How many of so many layers backward runs once more."""
        return 0 if self.is_selective else self.checkpointed_layers(layers)

    @property
    def compute_bytes(self) -> int:
        """Of an element that is computed with."""
        return 4 if self.precision == "fp32" else 2
