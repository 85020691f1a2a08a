"""``--compile``: run each decoder layer through ``torch.compile``.

A layer is compiled in place, so parameter names, and with them checkpoints, stay the same. All layers
share one compiled graph, since they differ only in their weights.
"""

import platform
import shutil

import torch
from torch import nn
from torch.utils._triton import has_triton

from metaseq_plugin.compat.errors import UserError


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile every layer of ``layers`` in place; UserError where that cannot generate code."""
    if torch.cuda.is_available():
        if not has_triton():
            raise UserError(
                "`--compile` must find Triton to compile for the GPU, but does not. "
                "Install triton, or leave --compile out."
            )
    elif shutil.which("g++") is None and shutil.which("c++") is None:
        raise UserError(
            f"`--compile` must find a C++ compiler on this {platform.system()} CPU, but does not. "
            "Install g++, or leave --compile out."
        )
    for layer in layers:
        layer.compile()
