"""A model's weights as decoding reads them fastest; the model can then be trained no more.

    store_for_decoding_(model)

Linear layers on a CPU are packed into oneDNN's blocks (``linear.py``), and those with the same input joined
(``joint_linear.py``). State dicts stay as they are, and no second copy is kept. The token embedding stays plain, since of
blocks no row is to be had.
"""

import torch
from torch import nn

from metaseq_plugin.modules.joint_linear import JointLinear
from metaseq_plugin.modules.linear import Linear


@torch.no_grad()
def store_for_decoding_(model: nn.Module) -> None:
    """Pack and join the linear layers of ``model``; what is stored already, or on no CPU, is left alone."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.pack_()
    for module in model.modules():
        if isinstance(module, JointLinear):
            module.join_()
