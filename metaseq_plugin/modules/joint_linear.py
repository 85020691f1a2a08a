"""Linear layers that read the same input: stored for decoding, they are one product.

    class Attention(JointLinear):
        together = ("q_proj", "k_proj", "v_proj")

    q, k, v = attention.products(x)

One product of (3·D, D) reads its weights faster than three of (D, D), and is one call: figures are in ``linear.py``. In
the state dict the layers stay what they are, and training knows nothing of this.

Legend: I inputs, O outputs of one layer.
"""

from typing import Any, Optional, Sequence

import torch
from torch import Tensor, nn

from metaseq_plugin.modules.linear import linear, pack


class JointLinear(nn.Module):
    """A module whose layers ``together``, all with biases, are given the same input.

    Attributes:
        joint: the weights of all, packed, and their biases; None: each layer has its own. The layers' weights are then
            shapes without values.
    """

    together: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.joint: Optional[tuple[Tensor, Tensor]] = None
        self.joint_sizes: list[int] = []  # O of each layer

    def products(self, x: Tensor) -> Sequence[Tensor]:
        """x (…, I) → of each layer (…, O), views of one tensor if the layers are joined."""
        if self.joint is None:
            return [self.get_submodule(name)(x) for name in self.together]
        return linear(x, *self.joint).split(self.joint_sizes, dim=-1)

    @torch.no_grad()
    def join_(self) -> None:
        """Make one of the layers' weights, if all are packed and all biases have their values."""
        weights, biases = self._parameters_together("weight"), self._parameters_together("bias")
        if not all(w.is_mkldnn for w in weights) or any(b.is_meta for b in biases):
            return
        rows = torch.cat([weight.to_dense() for weight in weights])
        self._set_weights([torch.empty_like(w.to_dense(), device="meta") for w in weights])
        self.joint_sizes = [weight.size(0) for weight in weights]
        self.joint = pack(rows), torch.cat(biases)
        self.register_state_dict_post_hook(_tell_own_weights)

    def part_(self) -> None:
        """Give each layer its weight back, if they are joined."""
        if self.joint is not None:
            self._set_weights(self.own_weights())
            self.joint = None

    def own_weights(self) -> Sequence[Tensor]:
        """The weight (O, I) of each of the joined layers."""
        assert self.joint is not None, "the layers have weights of their own"
        return [rows.clone() for rows in self.joint[0].to_dense().split(self.joint_sizes)]

    def _parameters_together(self, kind: str) -> list[Tensor]:
        return [self.get_submodule(name).get_parameter(kind) for name in self.together]

    def _set_weights(self, weights: Sequence[Tensor]) -> None:
        for name, weight in zip(self.together, weights):
            self.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "JointLinear":
        """``to``, ``half`` and the like."""
        self.part_()
        super()._apply(fn, recurse)
        return self


def _tell_own_weights(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    if isinstance(module, JointLinear) and module.joint is not None:
        for name, weight in zip(module.together, module.own_weights()):
            state[f"{prefix}{name}.weight"] = weight
