"""Training: recomputing activations and compiling change nothing but memory and time."""

import shutil
from typing import Any, Optional

import pytest
import torch
import torch.nn.functional as F

from metaseq_plugin.modules.checkpointing import Recompute
from metaseq_plugin.modules.compile import compile_layers
from tests.opt_models import KINDS, TINY, decoder, tokens


def loss_and_gradients(**settings: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model, ids = decoder(**settings).train(), tokens(2, 24)
    torch.manual_seed(5)  # of dropout
    loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    return loss.detach(), gradients


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_is_exact(kind: str, offload: bool, dropout: float) -> None:
    shape = {**KINDS[kind], "dropout": dropout, "attention_dropout": dropout}
    loss, gradients = loss_and_gradients(**shape)
    again, recomputed = loss_and_gradients(
        **shape, checkpoint_activations=True, offload_activations=offload
    )
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("recompute", Recompute)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_of_whichever_layers_is_recomputed_is_exact(
    kind: str, recompute: Recompute, layers: Optional[int], dropout: float
) -> None:
    shape = {**KINDS[kind], "dropout": dropout, "attention_dropout": dropout}
    loss, gradients = loss_and_gradients(**shape)
    options = {"recompute": recompute, "checkpoint_layers": layers}
    again, recomputed = loss_and_gradients(**shape, checkpoint_activations=True, **options)
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name


def test_dropout_drops() -> None:
    """Or the test above would show nothing about random numbers."""
    without = loss_and_gradients(**TINY, dropout=0.0, attention_dropout=0.0)[0]
    assert not torch.equal(
        without, loss_and_gradients(**TINY, dropout=0.3, attention_dropout=0.0)[0]
    )
    assert not torch.equal(
        without, loss_and_gradients(**TINY, dropout=0.0, attention_dropout=0.3)[0]
    )


@pytest.mark.slow  # code generation takes half a minute
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs"
)
def test_compiled_layers_give_the_same_logits_and_gradients() -> None:
    plain, compiled = decoder(**TINY).train(), decoder(**TINY).train()
    compile_layers(compiled.layers)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    ids = tokens(2, 24)
    losses = []
    for model in (plain, compiled):
        for layer in model.layers:
            layer.dropout = layer.self_attn.dropout = 0.0
        loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    for (name, ours), theirs in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)
