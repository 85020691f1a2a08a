"""--cpu-offload with --sequence-parallel: gradients in CPU memory are summed where the group computes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from metaseq_plugin.distributed import tensor_parallel


def test_partial_gradients_on_the_cpu_are_summed_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The meta device stands for the GPU: NCCL, which is not here, refuses tensors of the CPU."""
    summed_on = []

    def all_reduce(tensor: Tensor, group: Any) -> None:
        summed_on.append(tensor.device.type)

    monkeypatch.setattr(tensor_parallel.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(tensor_parallel, "backend_device", lambda: "meta")
    with FakeTensorMode():
        norm = nn.LayerNorm(4)
        for parameter in norm.parameters():
            parameter.grad = torch.zeros_like(parameter)
        region: Any = SimpleNamespace(group=None)
        tensor_parallel.sum_partial_gradients(norm, region)
        assert {p.grad.device.type for p in norm.parameters() if p.grad is not None} == {"cpu"}
    assert summed_on == ["meta"]
