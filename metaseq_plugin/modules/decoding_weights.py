"""A model's weights as decoding reads them fastest; the model can then be trained no more.

    store_for_decoding_(model)

On a CPU the matrices are packed: into 16 bits where these hold every number exactly (``half_weight.py``), else into
oneDNN's blocks (``linear.py``), or on AVX2 left whole to be first factors (``first_factor.py``); and those of linear layers
with the same input are joined (``joint_linear.py``). State dicts stay as they are, and one that is loaded unpacks what it is
for. No second copy is kept, but in 16 bits of the token embedding: of blocks no row is to be had.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from metaseq_plugin.modules.joint_linear import JointLinear


@runtime_checkable
class Packable(Protocol):
    """A module that has a matrix of its own to pack."""

    def pack_(self) -> None:
        """Pack it where it can be packed and is not yet."""


@torch.no_grad()
def store_for_decoding_(model: nn.Module) -> None:
    """Pack and join the matrices of ``model``; what is stored already, or on no CPU, is left alone."""
    for module in model.modules():
        if isinstance(module, Packable):
            module.pack_()
    for module in model.modules():
        if isinstance(module, JointLinear):
            module.join_()
