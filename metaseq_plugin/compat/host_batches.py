"""What goes from the host to a GPU goes from pinned memory, so that the host does not wait until it is there.

(1) A batch: fairseq's copies are asynchronous only where the memory is pinned, and its batches are not;
(2) the numbers of the host that ranks add up (tokens, seconds): fairseq copies them at once, behind all that the
    device still has to compute, and adds them up apart from those that are on the device.

Neither is reached by a run on the CPU.
"""

from functools import wraps
from typing import Any, Callable, Dict, Mapping

import torch
from torch import Tensor


def pinned(tensor: Tensor) -> Tensor:
    """``tensor`` where a GPU can fetch it by itself; PyTorch frees that memory behind the copy."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def pinning(move_to_cuda: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq.utils.move_to_cuda``, of the tensors in ``sample`` and all that is in it."""

    @wraps(move_to_cuda)
    def wrapper(sample: Any, device: Any = None) -> Any:
        from fairseq.utils import apply_to_sample

        # fairseq-eval-lm moves to the CPU, too.
        if device is not None and torch.device(device).type != "cuda":
            return move_to_cuda(sample, device)
        return move_to_cuda(apply_to_sample(pinned, sample), device)

    return wrapper


def sending_ahead(all_reduce_dict: Callable[..., Any]) -> Callable[..., Any]:
    """``all_reduce_dict``, of numbers, and tensors of one element, by name."""

    @wraps(all_reduce_dict)
    def wrapper(data: Mapping[str, Any], device: torch.device, group: Any) -> Any:
        return all_reduce_dict(sent(data, device) if device.type == "cuda" else data, device, group)

    return wrapper


def sent(data: Mapping[str, Any], device: torch.device) -> Dict[str, Any]:
    """``data`` with what is on the host on ``device``, fp64 as fairseq would make it, in one copy."""
    names = [name for name, value in data.items() if is_on_host(value)]
    if not names:
        return dict(data)
    numbers = torch.tensor([float(data[name]) for name in names], dtype=torch.float64)
    there = pinned(numbers).to(device, non_blocking=True)
    return {**data, **dict(zip(names, there, strict=True))}


def is_on_host(value: Any) -> bool:
    """Whether ``value`` is one number on the host; arrays and lists, which other models may log, go fairseq's way."""
    if torch.is_tensor(value):
        return value.device.type == "cpu" and value.dim() == 0
    return isinstance(value, (int, float))
