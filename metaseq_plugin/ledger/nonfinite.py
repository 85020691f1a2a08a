"""Where in the model a loss or a gradient becomes NaN or infinite: ``--find-nonfinite``.

(1) All ranks compute the update once more, with its seed, and look at the output of every module as it comes.
(2) If one is not finite, the first one is the place, with that of its own weights which is not finite, if one is.
(3) Otherwise the gradients are looked at. Backward goes the modules the other way, and what is wrong in one is wrong
    in all that it comes to later: so the place is the module that ran last of those with a gradient that is not finite.
(4) The ranks compare what they found: each holds its part of a model that is cut, and its part of the batch.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, NamedTuple, Optional

import torch
from torch import Tensor, nn

from metaseq_plugin.compat.watched_updates import Update, compute_again
from metaseq_plugin.layout.held import local, named_pieces, unwrapped
from metaseq_plugin.layout.peers import Ranks


class Output(NamedTuple):
    """The first output of a rank that is not finite."""

    number: int  # among all outputs, in order
    module: str
    parameter: Optional[str]  # one of the module's own that is not finite


class Gradient(NamedTuple):
    """The first gradient of a rank that is not finite."""

    number: int  # of the module's last output
    parameter: str


class Found(NamedTuple):
    """What is wrong first, on any rank; no module where nothing is, this time."""

    module: Optional[str] = None
    parameter: Optional[str] = None
    is_gradient: bool = False
    rank: int = 0

    @property
    def sentence(self) -> str:
        if self.module is None:
            return "All outputs and gradients are finite when the update is computed once more."
        if self.is_gradient:
            return (
                "All outputs are finite; the first gradient that is NaN or infinite is that of "
                f"{self.parameter}, on rank {self.rank}."
            )
        weights = "" if self.parameter is None else f", whose {self.parameter} is not finite"
        return f"The first output that is NaN or infinite is that of {self.module}, on rank {self.rank}{weights}."


class Outputs:
    """The outputs of the modules of a rank, as they come.

    Attributes:
        first: the first that is not finite.
        latest: module -> number of its last output.
    """

    def __init__(self) -> None:
        self.first: Optional[Output] = None
        self.latest: Dict[str, int] = {}
        self._count = 0

    def look(self, name: str, module: nn.Module, output: Any) -> None:
        """Take in an output."""
        self._count += 1
        self.latest[name] = self._count
        if self.first is None and not all(map(is_finite, tensors(output))):
            own = module.named_parameters(prefix=name, recurse=False)
            wrong = (parameter for parameter, p in own if not is_finite(local(p)))
            self.first = Output(self._count, name or type(module).__name__, next(wrong, None))


def find_nonfinite(update: Update, ranks: Ranks) -> Found:
    """Compute ``update`` again, and say what is wrong first; collective, and drops the gradients."""
    model = unwrapped(update.trainer.get_model())
    with looking_at_outputs(model) as outputs:
        compute_again(update)
    found = ranks.all_gather((outputs.first, first_gradient(model, outputs.latest)))
    update.trainer.zero_grad()
    first = [(output, rank) for rank, (output, _) in enumerate(found) if output is not None]
    if first:
        output, rank = min(first, key=lambda one: (one[0].number, one[1]))
        return Found(output.module, output.parameter, rank=rank)
    wrong = [(gradient, rank) for rank, (_, gradient) in enumerate(found) if gradient is not None]
    if not wrong:
        return Found()
    gradient, rank = max(wrong, key=lambda one: (one[0].number, -one[1]))
    module = gradient.parameter.rpartition(".")[0]
    return Found(module, gradient.parameter, is_gradient=True, rank=rank)


def first_gradient(model: nn.Module, latest: Dict[str, int]) -> Optional[Gradient]:
    """The gradient of a parameter, of which this rank may hold a part, that backward came to first."""
    wrong = [
        Gradient(latest.get(name.rpartition(".")[0], 0), name)
        for name, p, _ in named_pieces(model)
        if p.grad is not None and not is_finite(local(p.grad))
    ]
    return max(wrong, key=lambda gradient: gradient.number, default=None)


@contextmanager
def looking_at_outputs(model: nn.Module) -> Iterator[Outputs]:
    """Within, the outputs of all modules of ``model`` are looked at."""
    outputs = Outputs()
    handles = [
        module.register_forward_hook(
            lambda module, _, output, name=name: outputs.look(name, module, output)
        )
        for name, module in model.named_modules()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returned."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for inner in output:
            yield from tensors(inner)
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))


def is_finite(tensor: Tensor) -> bool:
    """Whether all of ``tensor``, of any type, is finite."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())
