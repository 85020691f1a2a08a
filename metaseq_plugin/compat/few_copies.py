"""The fp32 copies of 16-bit parameters, and of their gradients, are copied by few kernels instead of one each.

With ``--fp16 --fp16-no-flatten-grads`` and ``--bf16``, fairseq goes through the parameters one by one: their gradients
to fp32 before the update, the weights back to 16 bits behind it, and zeros before the next. A model of 24 layers has
some 400 parameters, and a GPU is done with each sooner than the host has asked for the next. The values are the same.
"""

from functools import wraps
from typing import Any, Callable, Tuple

import torch
from torch import Tensor


def lists(optimizer: Any) -> bool:
    """Whether ``optimizer`` holds its copies as a list, parameter by parameter, all of them trained."""
    is_list = not (
        torch.is_tensor(optimizer.fp32_params) or isinstance(optimizer.fp32_params, dict)
    )
    return is_list and all(parameter.requires_grad for parameter in optimizer.fp16_params)


def pairs(optimizer: Any) -> "zip[Tuple[Tensor, Tensor]]":
    return zip(optimizer.fp16_params, optimizer.fp32_params, strict=True)


def gradients_together(sync: Callable[[Any], None]) -> Callable[[Any], None]:
    """``_sync_fp16_grads_to_fp32`` of fairseq's 16-bit optimizers."""

    @wraps(sync)
    def wrapper(optimizer: Any) -> None:
        is_plain = lists(optimizer) and all(
            parameter.grad is not None and copy.grad is not None
            for parameter, copy in pairs(optimizer)
        )
        if not is_plain:
            sync(optimizer)
        elif optimizer._needs_sync:
            torch._foreach_copy_(
                [copy.grad.data for copy in optimizer.fp32_params],
                [parameter.grad.data for parameter in optimizer.fp16_params],
            )
            optimizer._needs_sync = False

    return wrapper


def weights_together(sync: Callable[[Any], None]) -> Callable[[Any], None]:
    """``_sync_fp32_params_to_fp16``, behind the update."""

    @wraps(sync)
    def wrapper(optimizer: Any) -> None:
        if not lists(optimizer):
            sync(optimizer)
            return
        torch._foreach_copy_(
            [parameter.data for parameter in optimizer.fp16_params],
            [copy.data for copy in optimizer.fp32_params],
        )

    return wrapper


def zeros_together(zero_grad: Callable[[Any], None]) -> Callable[[Any], None]:
    """``zero_grad``, which fills the copies' gradients with zeros."""

    @wraps(zero_grad)
    def wrapper(optimizer: Any) -> None:
        copies = optimizer.fp32_params
        gradients = (
            [copy.grad for copy in copies if copy.grad is not None] if lists(optimizer) else []
        )
        if not gradients:
            zero_grad(optimizer)
            return
        torch._foreach_zero_(gradients)
        optimizer.fp32_params = []  # which fairseq would go through one by one
        try:
            zero_grad(optimizer)
        finally:
            optimizer.fp32_params = copies

    return wrapper
