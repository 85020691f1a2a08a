"""The copies of 16-bit parameters are what fairseq makes of them one by one, in fewer calls."""

from typing import Any, Optional

import pytest
import torch
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from metaseq_plugin.compat import few_copies

METHODS = ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad")


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket in (
            torch.ops.aten.copy_, torch.ops.aten.zero_, torch.ops.aten._foreach_copy_,
            torch.ops.aten._foreach_zero_,
        )  # fmt: skip
        return func(*args, **(kwargs or {}))


def optimizer_of(frozen: bool, scale: float) -> Any:
    """What these three methods use of fairseq's ``FP16Optimizer``, behind a backward pass."""
    torch.manual_seed(0)
    optimizer = _FP16OptimizerMixin()
    optimizer.fp16_params = [nn.Parameter(torch.randn(3, 4).bfloat16()) for _ in range(6)]
    optimizer.fp16_params[2].requires_grad = not frozen
    optimizer.fp32_params = optimizer.build_fp32_params(None, optimizer.fp16_params, flatten=False)
    optimizer.scaler = None
    for parameter in optimizer.fp16_params:
        parameter.grad = torch.randn(3, 4).bfloat16() if parameter.requires_grad else None
    optimizer.fp32_params[0].data.mul_(scale)
    optimizer._needs_sync = True
    return optimizer


def original(name: str) -> Any:
    return vars(_FP16OptimizerMixin)[name].__wrapped__


@pytest.mark.parametrize("lost", [None, 1])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_are_fairseqs(frozen: bool, lost: Optional[int]) -> None:
    """``lost``: a parameter that was not used, and has no gradient."""
    ours, fairseqs = optimizer_of(frozen, 1.5), optimizer_of(frozen, 1.5)
    for optimizer in (ours, fairseqs):
        if lost is not None:
            optimizer.fp16_params[lost].grad = None
    for name in METHODS:
        getattr(ours, name)()
        original(name)(fairseqs)
        for a, b in zip(ours.fp32_params, fairseqs.fp32_params, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a.grad, b.grad)
        for a, b in zip(ours.fp16_params, fairseqs.fp16_params, strict=True):
            assert torch.equal(a, b)
            assert (a.grad is None) == (b.grad is None)
        assert not ours._needs_sync


def test_one_call_each() -> None:
    calls, optimizer = [], optimizer_of(frozen=False, scale=1.5)
    for name in METHODS:
        with Counting() as counting:
            getattr(optimizer, name)()
        calls.append(counting.calls)
    assert calls == [1, 1, 1]
    assert few_copies.lists(optimizer)
