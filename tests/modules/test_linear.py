"""The matrix product that replaces ``F.linear``, and weights packed for decoding."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F

from metaseq_plugin.modules import linear as linear_module
from metaseq_plugin.modules.decoding_weights import store_for_decoding_
from metaseq_plugin.modules.first_factor import FirstFactor
from metaseq_plugin.modules.linear import Linear, computes_in, linear, pack
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
        assert module.is_packed
    with torch.no_grad():
        found = module(x)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        if not stored:
            for dtype in (torch.float64, torch.bfloat16):
                assert linear(x.to(dtype), module.weight.to(dtype)).dtype == dtype


@pytest.mark.skipif(not linear_module.HAS_ONEDNN, reason="without oneDNN nothing is packed")
@pytest.mark.parametrize(
    "shape", [(n, 96) for n in (0, 1, 2, 3, 4, 5, 8, 9, 16, 32, 33, 64)] + [(2, 5, 96)]
)
@pytest.mark.parametrize("outputs", [72, 200])
@pytest.mark.parametrize("is_avx2", [True, False])
def test_packed_equals_torch_at_all_numbers_of_rows(
    shape: tuple[int, ...], outputs: int, is_avx2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_module, "IS_AVX2", is_avx2)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(outputs, 96), torch.randn(outputs)
    packed = pack(weight)
    assert isinstance(packed, FirstFactor) == is_avx2
    assert torch.equal(packed.to_dense(), weight)
    with torch.no_grad():
        for added in (None, bias):
            expected = F.linear(x, weight, added)
            for stored in (packed, weight):
                found = linear(x, stored, added)
                assert found.is_contiguous()
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (24,)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", ["", "x", "weight"])
@pytest.mark.parametrize("is_avx2", [True, False])
def test_gradients_equal_torchs(
    shape: tuple[int, ...], bias: bool, frozen: str, is_avx2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_module, "IS_AVX2", is_avx2)
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
        store_for_decoding_(model)  # a model may have come to two generators
        assert cast(Linear, model.get_submodule("layers.0.fc1")).is_packed
        torch.testing.assert_close(model(ids)[0], expected, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.skipif(not computes_in(torch.bfloat16), reason="needs a CPU that computes in bfloat16")
def test_packed_in_16_bits() -> None:
    model = decoder(**TINY)
    ids = tokens(2, 9)
    model.bfloat16()
    with torch.no_grad():
        expected = model(ids)[0]
        store_for_decoding_(model)
        found = model(ids)[0]
    assert model.get_parameter("layers.0.fc1.weight").is_mkldnn
    assert found.dtype == torch.bfloat16
    # bfloat16 has 8 bits: the two kernels round sums of another order.
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-4)


def test_what_is_not_ours_to_multiply_is_not_packed() -> None:
    model = decoder(**TINY).double()
    plain = torch.nn.Linear(8, 8)
    store_for_decoding_(model)
    store_for_decoding_(plain)
    assert not any(p.is_mkldnn for p in (*model.parameters(), *plain.parameters()))


def test_16_bits_are_computed_where_a_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "HAS_ONEDNN", False)
    monkeypatch.setattr(linear_module, "HAS_FBGEMM", False)
    assert computes_in(torch.float32)
    assert not any(map(computes_in, (torch.bfloat16, torch.float16)))
    model = torch.nn.Sequential(Linear(8, 8))
    store_for_decoding_(model)
    assert not model[0].weight.is_mkldnn


def test_a_packed_model_may_change_its_data_type() -> None:
    module = Linear(24, 40)
    expected = module.weight.detach().double()
    store_for_decoding_(module)
    module.double()
    assert torch.equal(module.weight, expected)
    assert torch.equal(module.state_dict()["weight"], expected)


def test_a_packed_weight_lies_in_memory_of_its_own() -> None:
    """The file that it was read from may be changed, or its pages given back."""
    module = Linear(24, 40)
    source = module.weight.detach()
    expected = source.clone()
    store_for_decoding_(module)
    source.zero_()
    assert torch.equal(module.dense_weight(), expected)
