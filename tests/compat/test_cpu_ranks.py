"""A trainer on the CPU keeps its tensors there, and only in a step of its own."""

from types import SimpleNamespace
from typing import Any

import torch

from metaseq_plugin.compat import cpu_ranks


def test_tensors_stay_only_in_a_step_of_a_trainer_on_the_cpu() -> None:
    original = torch.Tensor.cuda

    def train_step(trainer: Any) -> bool:
        return torch.Tensor.cuda is original

    step = cpu_ranks.staying(train_step)
    assert step(SimpleNamespace(device=torch.device("cuda")))
    assert not step(SimpleNamespace(device=torch.device("cpu")))
    assert torch.Tensor.cuda is original
    with cpu_ranks.on_the_host():
        assert torch.tensor(1.0).cuda().device.type == "cpu"
