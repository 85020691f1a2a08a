"""Keep what the backward pass needs in CPU memory while the accelerator works on."""

from contextlib import nullcontext
from typing import ContextManager

import torch
from torch.autograd.graph import save_on_cpu


def maybe_offload(enabled: bool, device: torch.device) -> ContextManager[None]:
    """A context whose saved tensors live in pinned CPU memory, where ``enabled`` and of any use."""
    if enabled and device.type != "cpu":
        return save_on_cpu(pin_memory=True)
    return nullcontext()
