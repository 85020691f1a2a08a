"""An update that is gone past leaves the trainer ready for the next one."""

from types import SimpleNamespace

import torch

from metaseq_plugin.compat.watched_updates import pass_over


def test_the_scaler_of_amp_takes_the_gradients_of_the_next_update() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    sgd, scaler = torch.optim.SGD([weight], 0.1), torch.amp.GradScaler("cpu", init_scale=4.0)
    numbers: "list[int]" = []
    trainer = SimpleNamespace(
        cfg=SimpleNamespace(common=SimpleNamespace(amp=True)), optimizer=SimpleNamespace(scaler=scaler),
        zero_grad=sgd.zero_grad, get_num_updates=lambda: 7, set_num_updates=numbers.append,
    )  # fmt: skip
    for _ in range(2):
        scaler.scale(weight.sum()).backward()
        scaler.unscale_(sgd)  # as fairseq does before the norm is known
        assert weight.grad is not None
        assert weight.grad.item() == 1
        pass_over(trainer)
    assert (numbers, weight.item(), weight.grad, scaler.get_scale()) == ([8, 8], 1, None, 4)
