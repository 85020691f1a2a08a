"""FLOPs: equal to PyTorch's own counter on the real model, and to what was published of OPT-175B."""

from typing import Any, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metaseq_plugin.ledger.flops import (
    VOCAB_SIZE,
    megatron_flops,
    model_flops,
    multiplied_weights,
    recomputed_share,
)
from metaseq_plugin.ledger.rates import device
from metaseq_plugin.models import opt
from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy
from metaseq_plugin.sizes import MAX_POSITIONS, SIZES, OPTSize
from tests.opt_models import config, dictionary

TOKENS = 300e9
DAY = 86_400


def counted(model: opt.OPTDecoder, tokens: Tensor) -> float:
    """What PyTorch counts of one update's forward and backward, a token."""
    with FlopCounterMode(display=False) as counter:
        logits, _ = model(tokens)
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["125m", "350m", "1.3b", "6.7b", "175b"])
@pytest.mark.parametrize(
    ("options", "dropout"),
    [
        ({}, 0.1),
        ({"checkpoint_activations": True}, 0.1),
        ({"checkpoint_activations": True}, 0.0),
        ({"checkpoint_activations": True, "checkpoint_layers": 5}, 0.1),
        ({"checkpoint_activations": True, "recompute": "selective"}, 0.1),
    ],
)
def test_flops_are_those_that_pytorch_counts(
    name: str, options: dict[str, Any], dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether there is padding is asked of the tokens' values, which meta tensors have not.
    monkeypatch.setattr(
        opt, "positions_and_mask", lambda tokens, *_: (torch.zeros_like(tokens), None)
    )
    settings = config(f"opt_{name}", **options, dropout=dropout)
    with torch.device("meta"):
        model = opt.OPTDecoder(settings, dictionary(VOCAB_SIZE)).train()
        tokens = torch.zeros(1, MAX_POSITIONS, dtype=torch.long)
    share = recomputed_share(settings, settings.decoder_layers)
    ours = model_flops(SIZES[name], dropout=dropout).hardware(share)
    assert counted(model, tokens) == pytest.approx(ours, rel=1e-12)


def product_in_place(_: Any, a: Sequence[int], b: Sequence[int], **__: Any) -> int:
    """What PyTorch's counter has for ``addmm``, for ``addmm_``, which it does not know."""
    return 2 * a[0] * a[1] * b[1]


def test_the_chunked_loss_takes_the_products_of_the_plain_one() -> None:
    # In fp64, which takes PyTorch's own products and not oneDNN's, which the counter does not see.
    features, weight = (
        torch.randn(rows, 16, dtype=torch.float64, requires_grad=True) for rows in (64, 56)
    )
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: product_in_place}
    ) as counter:
        chunked_cross_entropy(features, weight, torch.arange(64) % 56, -1, 32).backward()
    assert counter.get_total_flops() == 3 * 2 * 64 * 16 * 56


def test_a_layer_by_hand() -> None:
    size = OPTSize(layers=1, embed_dim=8, heads=2)
    assert multiplied_weights(size, vocab_size=10) == 4 * 64 + 2 * 8 * 32 + 80
    flops = model_flops(size, tokens_per_sample=4, vocab_size=10)
    assert tuple(flops) == (2 * 768, 4 * 8 * 4, 2 * 80, 0)
    assert flops.training == 6 * 848 + 12 * 8 * 4
    assert flops.hardware(1) == flops.training + 2 * 768 + 128
    causal = model_flops(size, tokens_per_sample=4, vocab_size=10, causal=True)
    assert causal.training == 6 * 848 + 6 * 8 * 4
    assert model_flops(size, dropout=0.0).not_again == 2 * 8 * 32


@pytest.mark.parametrize(
    ("name", "training", "causal"),
    [("125m", 0.968e9, 0.855e9), ("350m", 2.577e9, 2.275e9), ("13b", 82.075e9, 79.558e9),
     ("175b", 1076.375e9, 1061.879e9)],
)  # fmt: skip
def test_both_conventions_of_the_sizes(name: str, training: float, causal: float) -> None:
    assert model_flops(SIZES[name]).training == pytest.approx(training, rel=1e-3)
    assert model_flops(SIZES[name], causal=True).training == pytest.approx(causal, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in SIZES if name != "350m"])
def test_hardware_flops_are_megatrons(name: str) -> None:
    size = SIZES[name]
    megatrons = megatron_flops(size.layers, size.embed_dim, MAX_POSITIONS, VOCAB_SIZE)
    assert model_flops(size).hardware(1) == pytest.approx(megatrons, rel=1e-12)


def test_opt_175bs_own_record() -> None:
    """4.30e23 FLOPs and about 33 days on 1,024 A100s (metaseq's chronicles/final_update.md).

    147 TFLOP/s a GPU: Zhang et al. 2022 (arXiv:2205.01068), section 2.4.
    """
    flops = model_flops(SIZES["175b"])
    all_tokens = TOKENS * flops.hardware(1)
    assert all_tokens == pytest.approx(4.30e23, rel=0.001)
    rate = all_tokens / (1024 * 33 * DAY)
    assert rate == pytest.approx(147e12, rel=0.003)
    assert all_tokens / (1024 * 147e12) / DAY == pytest.approx(33, abs=0.1)
    peak = device("a100-80gb").peak("fp16")
    assert 147e12 / peak == pytest.approx(0.471, abs=0.0005)
    # MFU is said to be three quarters of it, 35.3 %; the head is not recomputed, which makes it 35.4 %.
    assert 0.75 * 147e12 / peak == pytest.approx(0.353, abs=0.0005)
    mfu = 147e12 / peak * flops.training / flops.hardware(1)
    assert mfu == pytest.approx(0.354, abs=0.0005)
