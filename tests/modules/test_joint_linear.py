"""The projections of attention as one product."""

import pytest
import torch

from metaseq_plugin.models.opt import OPTAttention, OPTDecoder, OPTDecoderLayer
from metaseq_plugin.modules.decoding_weights import store_for_decoding_
from metaseq_plugin.modules.linear import HAS_ONEDNN
from tests.opt_models import TINY, decoder, tokens

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="needs oneDNN, whose blocks are joined")


def attention_of(model: OPTDecoder) -> OPTAttention:
    layer = model.layers[0]
    assert isinstance(layer, OPTDecoderLayer)
    return layer.self_attn


@torch.no_grad()
def test_joined_projections_give_what_three_give() -> None:
    attention = attention_of(decoder(**TINY))
    x = torch.randn(2, 5, attention.q_proj.in_features)
    for name in attention.together:  # nothing is told from zeros
        attention.get_submodule(name).get_parameter("bias").normal_()
    expected = attention.products(x)
    store_for_decoding_(attention)
    assert attention.joint is not None
    assert attention.q_proj.weight.is_meta
    found = attention.products(x)
    assert [y.data_ptr() - found[0].data_ptr() for y in found[1:]] == [
        4 * x.size(-1), 8 * x.size(-1)  # views of one product
    ]  # fmt: skip
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_joined_projections_may_change_their_data_type() -> None:
    model, plain, ids = decoder(**TINY), decoder(**TINY), tokens(2, 9)
    plain.load_state_dict(model.state_dict())
    store_for_decoding_(model)
    torch.testing.assert_close(model.double()(ids)[0], plain.double()(ids)[0])
    assert attention_of(model).joint is None
