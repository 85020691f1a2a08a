"""Weights held in 16 bits: the same bits as before, the same products, in a whole model too."""

import pytest
import torch
import torch.nn.functional as F

from metaseq_plugin.models.opt import OPTDecoder, OPTDecoderLayer
from metaseq_plugin.modules.decoding_weights import store_for_decoding_
from metaseq_plugin.modules.half_weight import HAS_FBGEMM, HalfWeight, held
from metaseq_plugin.modules.linear import Linear, linear, pack
from tests.opt_models import TINY, decoder, tokens

pytestmark = pytest.mark.skipif(not HAS_FBGEMM, reason="needs FBGEMM, whose blocks are of 16 bits")


def rounded(model: OPTDecoder, dtype: torch.dtype = torch.float16) -> OPTDecoder:
    """The model as it is when a checkpoint of it in ``dtype`` is loaded in float32."""
    return model.to(dtype).float()


def with_number(weight: torch.Tensor, number: float) -> torch.Tensor:
    return weight.index_put((torch.tensor(7), torch.tensor(7)), torch.tensor(number))


def test_only_what_16_bits_hold_exactly_is_held_in_them() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 8).half().float()
    least = torch.full((8, 8), 2.0**-24)  # of float16's numbers
    # What float16 rounds down to 0, or up to infinity, it holds times a power of two.
    inside = [weight, least, with_number(weight, 2.0**-25), with_number(weight, 2.0**17)]
    for matrix in (*inside, torch.zeros(8, 8), torch.full((8, 8), 2.0**-120)):
        half = held(matrix)
        assert half is not None
        assert torch.equal(half.to_dense(), matrix)
    for number in (0.1, 65_520.0, torch.nan, 1e6, torch.inf, -torch.inf, 1e-9):
        assert held(with_number(weight, number)) is None, number
    # Times a power of two that brings the largest into float16, the least is none of float32's.
    assert held(torch.tensor([[2.0**127, 2.0**-120]])) is None
    assert held(weight.double()) is None
    assert held(weight[:0]) is None


@pytest.mark.parametrize("std", [1e-12, 0.006, 0.02, 3.0, 1e12])
def test_what_was_saved_in_bfloat16_is_held(std: float) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(1100, 96) * std).bfloat16().float()
    x, bias = torch.randn(3, 96), torch.randn(1100) * std
    half = held(weight)
    assert half is not None
    assert torch.equal(half.to_dense(), weight)
    for added in (None, bias):
        expected = F.linear(x, weight, added)
        torch.testing.assert_close(half.product(x, added), expected, rtol=1e-5, atol=1e-5 * std)


@pytest.mark.parametrize("shape", [(0, 96), (1, 96), (5, 96), (2, 3, 96), (64, 96)])
@pytest.mark.parametrize("outputs", [40, 72, 200])
def test_equals_torch_at_all_numbers_of_rows(shape: tuple[int, ...], outputs: int) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(shape), torch.randn(outputs)
    weight = torch.randn(outputs, 96).half().float()
    weight[0, :2] = torch.tensor([2.0**-24, 65_504.0])
    half = pack(weight)
    assert isinstance(half, HalfWeight)
    assert torch.equal(half.to_dense(), weight)
    with torch.no_grad():
        for added in (None, bias):
            expected = F.linear(x, weight, added)
            torch.testing.assert_close(linear(x, half, added), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_16_bits_has_the_state_and_the_logits_it_had(dtype: torch.dtype) -> None:
    model, ids = rounded(decoder(**TINY), dtype), tokens(2, 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(ids)[0]
    store_for_decoding_(model)
    store_for_decoding_(model)  # a model may have come to two generators
    layer = model.layers[0]
    assert isinstance(layer, OPTDecoderLayer)
    assert layer.self_attn.joint is not None
    parts = (layer.fc1.held, layer.self_attn.joint[0], model.head)
    assert all(isinstance(part, HalfWeight) for part in parts)
    torch.testing.assert_close(model(ids)[0], expected, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@torch.no_grad()
def test_a_model_in_16_bits_may_change_its_data_type() -> None:
    model, plain, ids = rounded(decoder(**TINY)), decoder(**TINY), tokens(2, 9)
    plain.load_state_dict(model.state_dict())
    store_for_decoding_(model)
    torch.testing.assert_close(model.double()(ids)[0], plain.double()(ids)[0])
    assert model.head is None


@torch.no_grad()
@pytest.mark.parametrize("rounds", [True, False], ids=["16 bits", "blocks"])
def test_a_packed_model_takes_other_weights(rounds: bool) -> None:
    model, other, ids = decoder(**TINY), decoder(**TINY), tokens(2, 9)
    for parameter in other.parameters():
        parameter.mul_(2)  # its inexact numbers stay inexact
    store_for_decoding_(rounded(model) if rounds else model)
    model.load_state_dict(other.state_dict())
    for _ in range(2):
        torch.testing.assert_close(model(ids)[0], other(ids)[0], rtol=1e-5, atol=1e-5)
        store_for_decoding_(model)


def test_a_layer_in_16_bits_can_be_unpacked() -> None:
    module = Linear(24, 40).half().float()
    expected = module.weight.detach().clone()
    store_for_decoding_(module)
    assert module.weight.is_meta
    assert torch.equal(module.state_dict()["weight"], expected)
    module.double()
    assert torch.equal(module.weight, expected.double())
