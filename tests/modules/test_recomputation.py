"""What a layer keeps for backward: less with selective recomputation, and no product is computed again."""

import gc
import weakref
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from metaseq_plugin.models.opt import OPTDecoder
from metaseq_plugin.modules.dropout import dropout
from metaseq_plugin.modules.recomputation import Forgetting, LayerNorm
from tests.fake_updates import Storages
from tests.opt_models import KINDS, decoder, tokens

SELECTIVE = {"checkpoint_activations": True, "recompute": "selective"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_kept_bytes_are_between_those_of_nothing_and_of_all(kind: str, p: float) -> None:
    kept = []
    for options in ({}, SELECTIVE, {"checkpoint_activations": True}):
        # Fake tensors take no values.
        unfilled = patch.object(OPTDecoder, "reset_parameters")
        with unfilled, FakeTensorMode(), Storages() as storages:
            model = decoder(**KINDS[kind], **options, dropout=p, attention_dropout=0.0).train()
            ids, before = torch.full((4, 32), 5), storages.now
            features = model.extract_features(ids)
            kept.append(storages.now - before)
            del features, model
    assert kept[0] > kept[1] > kept[2]


def test_no_product_is_computed_again() -> None:
    flops = []
    for options in ({}, SELECTIVE, {"checkpoint_activations": True}):
        # In fp64, which takes PyTorch's own products and not oneDNN's, which the counter does not see.
        model = decoder(**KINDS["pre-norm"], **options).train().double()
        with FlopCounterMode(display=False) as counter:
            model(tokens(2, 24))[0].sum().backward()
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] < flops[2]


def test_dropout_draws_the_same_numbers_for_any_layout_of_the_gradient() -> None:
    x = torch.randn(6, 8, requires_grad=True)
    gradients = []
    for forgets in (False, True):
        torch.manual_seed(3)
        if forgets:
            with Forgetting():
                y = dropout(x, 0.5, True)
        else:
            y = dropout(x, 0.5, True)
        torch.manual_seed(4)  # of whatever comes in between
        (gradient,) = torch.autograd.grad(y, x, torch.arange(48.0).view(8, 6).t())
        gradients.append(gradient)
        assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(4)))
    assert torch.equal(*gradients)


def test_a_tensor_at_the_address_of_a_forgotten_one_is_kept_itself() -> None:
    norm, x = LayerNorm(512), torch.randn(64, 512, requires_grad=True)
    with Forgetting():
        (norm(x) * 2).sum()  # let go at once
        others = [torch.full((64, 512), 3.0) for _ in range(4)]
        y = torch.stack([(x * other).sum() for other in others]).sum()
    (gradient,) = torch.autograd.grad(y, x)
    assert torch.equal(gradient, torch.full((64, 512), 12.0))


def test_nothing_outlives_its_graph() -> None:
    norm, x = LayerNorm(8), torch.randn(4, 8, requires_grad=True)
    gc.disable()
    try:
        with Forgetting():
            hidden = x * 2
            y = torch.nn.functional.linear(norm(hidden), torch.randn(3, 8, requires_grad=True))
        alive = weakref.ref(hidden.untyped_storage())
        y.sum().backward()
        del hidden, y
        assert alive() is None
    finally:
        gc.enable()
