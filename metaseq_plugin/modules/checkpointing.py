"""``--checkpoint-activations``: which decoder layers keep less for backward, and how much less.

    fairseq-train … --checkpoint-activations [--checkpoint-layers 8] [--recompute selective] [--offload-activations]

    --recompute whole       keeps a layer's input, and runs the layer once more (Chen et al. 2016, arXiv:1604.06174)
    --recompute selective   keeps the results of products, attention and collectives, and computes norms and dropout
                            once more: ``recomputation.py``

With --checkpoint-layers N these are the first N layers. Backward comes to them last, when the layers that keep
everything have let it go, so that what the recomputed layer needs has their room.
"""

from contextlib import nullcontext
from enum import Enum
from typing import Any, Iterator, Optional

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from metaseq_plugin.modules.recomputation import Forgetting


class Recompute(str, Enum):
    """What of a layer is computed again; the names are what is typed."""

    whole = "whole"
    selective = "selective"


class Checkpointing:
    """How the layers of a decoder run while it trains.

    Args:
        cfg: the decoder's; its number of layers is filled in.
    """

    def __init__(self, cfg: Any) -> None:
        layers = cfg.decoder_layers if cfg.checkpoint_layers is None else cfg.checkpoint_layers
        self.num_layers: int = layers if cfg.checkpoint_activations else 0
        self.recompute = Recompute(cfg.recompute)
        self.offloads: bool = cfg.offload_activations

    def run(
        self, layer: nn.Module, number: int, x: Tensor, mask: Optional[Tensor], cache: Any
    ) -> Tensor:
        """The ``number``-th layer, from 0: x (B, T, D) → (B, T, D), ``mask`` and ``cache`` as it takes them."""
        if number >= self.num_layers:
            result: Tensor = layer(x, mask, cache)
        elif self.recompute is Recompute.selective:
            with Forgetting():
                result = layer(x, mask, cache)
        else:
            offloads = self.offloads and x.device.type != "cpu"
            with save_on_cpu(pin_memory=True) if offloads else nullcontext():
                # By name: then the mask is not moved to CPU memory once for every layer.
                result = checkpoint(layer, x, mask=mask, cache=cache, use_reentrant=False)
        return result


def checkpointing_problems(cfg: Any) -> Iterator[str]:
    """What of the settings cannot be, a sentence each."""
    if not cfg.checkpoint_activations:
        for option, is_set in (
            ("--checkpoint-layers", cfg.checkpoint_layers is not None),
            ("--recompute", Recompute(cfg.recompute) is not Recompute.whole),
            ("--offload-activations", cfg.offload_activations),
        ):
            if is_set:
                yield f"`{option}` must come with --checkpoint-activations, but comes alone. Add it."
        return
    count = cfg.checkpoint_layers
    if count is not None and not 1 <= count <= cfg.decoder_layers:
        yield (
            f"`--checkpoint-layers` must be from 1 to the number of layers ({cfg.decoder_layers}), but is "
            f"{count}. Leave it out for all of them."
        )
    if Recompute(cfg.recompute) is Recompute.selective:
        if cfg.offload_activations:
            yield (
                "`--recompute` must be whole with --offload-activations, but is selective. Set whole: then "
                "layers keep their inputs only."
            )
        if cfg.compile:
            yield (
                "`--recompute` must be whole with --compile, but is selective. Set whole, or leave --compile out."
            )
