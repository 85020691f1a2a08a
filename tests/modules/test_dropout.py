"""Dropout of a block's output: what is dropped, what it keeps for backward, and where PyTorch's own is taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaseq_plugin.modules.dropout import dropout
from metaseq_plugin.modules.recomputation import Forgetting


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_share_that_stays_is_scaled_up(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(5)
    x = torch.ones(400, 1001, dtype=dtype)
    y = dropout(x, p, True)
    stays = y != 0
    error = (stays.double().mean() - (1 - p)).abs()
    assert error < 5 * (p * (1 - p) / x.numel()) ** 0.5
    # Of the rounded p: to 2**-16 near it.
    torch.testing.assert_close(
        y[stays].double(), torch.full_like(y[stays], 1 / (1 - p)).double(), rtol=2**-7 if dtype == torch.bfloat16 else 2**-14, atol=0
    )  # fmt: skip


def test_the_gradient_is_dropped_where_the_output_is() -> None:
    x = torch.randn(7, 33).add_(10).requires_grad_()
    y = dropout(x, 0.3, True)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(gradient == 0, y == 0)
    torch.testing.assert_close(gradient * x, y)


def test_a_byte_an_entry_is_kept_and_nothing_where_masks_are_forgotten() -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    x = torch.randn(64, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda y: y):
        dropout(x, 0.1, True)
        assert [y.nbytes for y in kept] == [64 * 32]
        kept.clear()
        with Forgetting():
            dropout(x, 0.1, True)
        assert kept == []


def test_nothing_is_dropped_where_nothing_trains() -> None:
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x


def test_a_traced_graph_has_pytorchs_own() -> None:
    x = torch.randn(64, 64)
    compiled = torch.compile(lambda x: dropout(x, 0.5, True), backend="eager", fullgraph=True)
    torch.manual_seed(1)
    y = compiled(x)
    torch.manual_seed(1)
    assert torch.equal(y, F.dropout(x, 0.5))
