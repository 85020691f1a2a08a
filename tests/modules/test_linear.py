"""The matrix product that replaces ``F.linear`` without gradients, and the layout for decoding."""

import pytest
import torch
import torch.nn.functional as F

from metaseq_plugin.modules.linear import Linear, linear, store_for_decoding_
from tests.opt_models import TINY, decoder, tokens


@pytest.mark.parametrize("shape", [(1, 24), (8, 24), (2, 5, 24), (0, 24)])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torch(shape: tuple[int, ...], stored: bool, bias: bool) -> None:
    torch.manual_seed(0)
    module = Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    expected = F.linear(x, module.weight, module.bias)
    if stored:
        store_for_decoding_(module)
        assert not module.weight.is_contiguous()
    with torch.no_grad():
        found = module(x)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        for dtype in (torch.float64, torch.bfloat16):
            assert linear(x.to(dtype), module.weight.to(dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (24,)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", ["", "x", "weight"])
def test_gradients_equal_torchs(shape: tuple[int, ...], bias: bool, frozen: str) -> None:
    torch.manual_seed(0)
    module = Linear(24, 40, bias=bias)
    module.weight.requires_grad_(frozen != "weight")
    x = torch.randn(shape, requires_grad=frozen != "x")
    inputs = [t for t in (x, *module.parameters()) if t.requires_grad]
    expected_y = F.linear(x, module.weight, module.bias)
    dy = torch.randn_like(expected_y)
    found_y = module(x)
    torch.testing.assert_close(found_y, expected_y, rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(expected_y, inputs, dy) if inputs else ()
    found = torch.autograd.grad(found_y, inputs, dy) if inputs else ()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_storing_changes_neither_state_nor_logits() -> None:
    model = decoder(**TINY)
    ids = tokens(2, 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(ids)[0]
        store_for_decoding_(model)
        torch.testing.assert_close(model(ids)[0], expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
