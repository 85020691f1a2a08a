"""The norms of each layer's activations, weights and gradients, of one update in ``--log-norms`` N.

    with logging_norms(model) as norms:
        …                                    # forward and backward of all batches
    norms.of_all(model, grid, grad_norm=0.8)

    activations    root of the mean square of what a layer gives on, over all tokens of all ranks
    weights        L2 norm of all weights of a layer
    gradients      L2 norm of their gradient, as the trainer has it before clipping

Each element counts once, whoever holds it: shards everywhere, what ranks hold alike on one of them. The squares of all
layers are added up over the ranks in one all-reduce, and read in one transfer. The last entry of weights and gradients
is of all that is outside the layers: embeddings and the last LayerNorm.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.held import is_model_part, local, named_pieces, unwrapped
from metaseq_plugin.layout.shards import is_shard

LAYERS = "decoder.layers."


class Norms:
    """What one update's hooks have seen; ``num_layers`` of the model."""

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        self.model, self.num_layers = model, num_layers
        self.squares: List[List[Tensor]] = [[] for _ in range(num_layers)]
        self.counts = [0] * num_layers

    def see(self, layer: int, output: Any) -> None:
        """Take in the output of a layer, (…, dim), without waiting for it."""
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        norm = torch.linalg.vector_norm(hidden.detach(), dtype=torch.float32)
        self.squares[layer].append(norm.square())
        self.counts[layer] += hidden.numel()

    @torch.no_grad()
    def of_all(self, grid: Grid, grad_norm: float) -> Dict[str, List[float]]:
        """The norms; collective.

        Args:
            grad_norm: of the whole gradient, before clipping. What is held is a multiple of it: loss scale and
                sample size are divided out when the optimizer uses it.
        """
        weights, gradients = self._of_parameters(grid)
        device = weights[0].device
        zero = torch.zeros((), device=device)
        seen = [torch.stack(squares).sum() if squares else zero for squares in self.squares]
        counts = torch.tensor(self.counts, dtype=torch.float32, device=device)
        sums = torch.cat([torch.stack([*seen, *weights, *gradients]), counts]).to(torch.float64)
        if dist.is_initialized() and grid.mesh is not None:
            sums = sums.to(grid.mesh.device_type)
            dist.all_reduce(sums)
        values, layers = sums.tolist(), self.num_layers
        parts = [values[:layers], values[layers : 2 * layers + 1], values[2 * layers + 1 : -layers]]
        total = sum(parts[2])
        scale = grad_norm / total**0.5 if total > 0 else 0.0
        return {
            "activations": [
                (square / max(count, 1)) ** 0.5
                for square, count in zip(parts[0], values[-layers:], strict=True)
            ],
            "weights": [square**0.5 for square in parts[1]],
            "gradients": [scale * square**0.5 for square in parts[2]],
        }

    def _of_parameters(self, grid: Grid) -> "tuple[List[Tensor], List[Tensor]]":
        """Squares of what this rank counts, by layer, and last what is outside of them: () fp32 each."""
        weights: List[List[Tensor]] = [[] for _ in range(self.num_layers + 1)]
        gradients: List[List[Tensor]] = [[] for _ in range(self.num_layers + 1)]
        device = torch.device("cpu")
        for name, p, _ in named_pieces(self.model):
            device = local(p).device
            is_alike = not (is_model_part(p) or grid.model_parallel_rank == 0)
            is_copy = not is_shard(p) and grid.data_parallel_rank > 0
            if is_alike or is_copy:
                continue
            inside = name.startswith(LAYERS)
            layer = int(name.removeprefix(LAYERS).split(".")[0]) if inside else self.num_layers
            weights[layer].append(local(p.detach()))
            if p.grad is not None:
                gradients[layer].append(local(p.grad))
        return [square(t, device) for t in weights], [square(t, device) for t in gradients]


def square(tensors: List[Tensor], device: torch.device) -> Tensor:
    """The sum of all squares, () fp32."""
    if not tensors:
        return torch.zeros((), device=device)
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    return torch.stack(norms).square().sum()


@contextmanager
def logging_norms(wrapped: nn.Module) -> Iterator[Norms]:
    """Within, the outputs of the layers of a model, whatever stands around it, are seen."""
    model: Any = unwrapped(wrapped)
    layers = list(model.decoder.layers)
    norms = Norms(model, len(layers))
    handles = [
        layer.register_forward_hook(
            lambda module, _, output, number=number: norms.see(number, output)
        )
        for number, layer in enumerate(layers)
    ]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
