"""Where in the model a loss or a gradient becomes NaN or infinite: ``--find-nonfinite``.

(1) All ranks compute the update once more, with its seed, and look at the output of every module as it comes.
(2) If one is not finite, the first one is the place, with that of its own weights which is not finite, if one is.
(3) Otherwise the gradients are looked at. Those of the layers come from the last to the first, and what is wrong in one
    is wrong in all before it: so the last parameter whose gradient is not finite is the place.
(4) The ranks compare what they found: each holds its part of a model that is cut, and its part of the batch.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from metaseq_plugin.compat.watched_updates import Update, compute_again
from metaseq_plugin.layout.held import local, named_pieces, unwrapped
from metaseq_plugin.layout.peers import Ranks


class Output(NamedTuple):
    """The first module of a rank whose output is not finite."""

    number: int  # of all outputs, in order
    module: str
    parameter: Optional[str]  # one of its own that is not finite


class Found(NamedTuple):
    """What is wrong first, on any rank; neither where it is the loss alone."""

    module: Optional[str] = None
    parameter: Optional[str] = None
    is_gradient: bool = False
    rank: int = 0

    @property
    def fields(self) -> Dict[str, Any]:
        """Of the event in the ledger."""
        return {**self._asdict()}

    @property
    def sentence(self) -> str:
        if self.is_gradient:
            return f"All outputs are finite; the first gradient that is not is that of {self.parameter}."
        if self.module is None:
            return "All outputs and gradients are finite when the update is computed once more."
        weights = "" if self.parameter is None else f", whose {self.parameter} is not finite"
        return f"The first output that is NaN or infinite is that of {self.module} on rank {self.rank}{weights}."


def find_nonfinite(update: Update, ranks: Ranks) -> Found:
    """Compute ``update`` again, and say what is wrong first; collective, and drops the gradients."""
    model = unwrapped(update.trainer.get_model())
    with looking_at_outputs(model) as outputs:
        compute_again(update)
    # A rank's own part of the gradient; the name is that of the uncut model.
    params = [
        name
        for name, p, _ in named_pieces(model)
        if p.grad is not None and not is_finite(local(p.grad))
    ]
    found = ranks.all_gather((outputs[0] if outputs else None, params))
    update.trainer.zero_grad()
    first = min(
        ((output, rank) for rank, (output, _) in enumerate(found) if output is not None),
        key=lambda one: (one[0].number, one[1]),
        default=None,
    )
    if first is not None:
        output, rank = first
        return Found(output.module, output.parameter, rank=rank)
    wrong = {name: rank for rank, (_, names) in reversed(list(enumerate(found))) for name in names}
    if not wrong:
        return Found()
    last = [name for name, _, _ in named_pieces(model) if name in wrong][-1]
    return Found(last.rpartition(".")[0], last, is_gradient=True, rank=wrong[last])


@contextmanager
def looking_at_outputs(model: nn.Module) -> Iterator[List[Output]]:
    """Within, the first output of ``model`` that is not finite is put into the list, which stays empty otherwise."""
    found: List[Output] = []
    number = 0

    def look(name: str, module: nn.Module, output: Any) -> None:
        nonlocal number
        number += 1
        if not found and not all(map(is_finite, tensors(output))):
            own = module.named_parameters(prefix=name, recurse=False)
            wrong = (parameter for parameter, p in own if not is_finite(local(p)))
            found.append(Output(number, name or type(module).__name__, next(wrong, None)))

    handles = [
        module.register_forward_hook(
            lambda module, _, output, name=name: look(name, module, output)  # type: ignore[misc]
        )
        for name, module in model.named_modules()
    ]
    try:
        yield found
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
