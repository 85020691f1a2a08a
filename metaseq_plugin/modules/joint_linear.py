"""Linear layers that read the same input: stored for decoding, they are one product.

    class Attention(JointLinear):
        together = ("q_proj", "k_proj", "v_proj")

    q, k, v = attention.products(x)

One product of (3·D, D) reads its weights faster than three of (D, D), and is one call: figures are in ``linear.py``. In
the state dict the layers stay what they are, and training knows nothing of this.

Legend: I inputs, O outputs of one layer.
"""

from typing import Any, Optional, Sequence, cast

import torch
from torch import Tensor, nn

from metaseq_plugin.modules.linear import Linear, Stored, linear, pack, unpack_to_load


class JointLinear(nn.Module):
    """A module whose layers ``together``, all with biases, are given the same input.

    Attributes:
        joint: the weights of all, packed, and their biases; None: each layer has its own. The layers' weights are then
            shapes without values.
    """

    together: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.joint: Optional[tuple[Stored, Tensor]] = None
        self.joint_sizes: list[int] = []  # O of each layer

    def products(self, x: Tensor) -> Sequence[Tensor]:
        """x (…, I) → of each layer (…, O), views of one tensor if the layers are joined."""
        if self.joint is None:
            return [self.get_submodule(name)(x) for name in self.together]
        return linear(x, *self.joint).split(self.joint_sizes, dim=-1)

    @torch.no_grad()
    def join_(self) -> None:
        """Make one of the layers' weights, if all are packed and all biases have their values."""
        layers = self._layers()
        if not all(x.is_packed for x in layers) or any(x.bias.is_meta for x in layers):
            return
        weights = [layer.dense_weight() for layer in layers]
        for layer in layers:
            layer.hold_(torch.empty_like(layer.weight, device="meta", layout=torch.strided))
        self.joint_sizes = [weight.size(0) for weight in weights]  # a rank's part of out_features
        self.joint = pack(torch.cat(weights)), torch.cat([layer.bias for layer in layers])
        self.register_state_dict_post_hook(_tell_own_weights)
        self.register_load_state_dict_pre_hook(unpack_to_load)

    def part_(self) -> None:
        """Give each layer its weight back, if they are joined."""
        if self.joint is not None:
            for layer, weight in zip(self._layers(), self.own_weights()):
                layer.hold_(weight)
            self.joint = None

    def own_weights(self) -> Sequence[Tensor]:
        """The weight (O, I) of each of the joined layers."""
        assert self.joint is not None, "the layers have weights of their own"
        return [rows.clone() for rows in self.joint[0].to_dense().split(self.joint_sizes)]

    def _layers(self) -> list[Linear]:
        return [cast(Linear, self.get_submodule(name)) for name in self.together]

    def _apply(self, fn: Any, recurse: bool = True) -> "JointLinear":
        """``to``, ``half`` and the like."""
        self.part_()
        super()._apply(fn, recurse)
        return self


def _tell_own_weights(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    if isinstance(module, JointLinear) and module.joint is not None:
        for name, weight in zip(module.together, module.own_weights()):
            state[f"{prefix}{name}.weight"] = weight
