"""The chunked loss against PyTorch's own, in every precision and at the edges."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy, token_losses
from metaseq_plugin.modules.loss_chunks import automatic_chunk_tokens

PAD = 1


def make_batch(tokens: int, dim: int, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), weight (V, D), targets (N,) of which every fifth is padding."""
    torch.manual_seed(0)
    target = torch.randint(2, vocab, (tokens,))
    target[::5] = PAD
    return torch.randn(tokens, dim), torch.randn(vocab, dim) * 0.3, target


def reference(
    features: Tensor, weight: Tensor, target: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients, by PyTorch in ``dtype``."""
    x, w = features.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    loss = F.cross_entropy(F.linear(x, w), target, ignore_index=PAD, reduction="sum")
    dx, dw = torch.autograd.grad(loss, (x, w))
    return loss.detach(), dx, dw


def chunked(
    features: Tensor, weight: Tensor, target: Tensor, chunk: int, loss_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = chunked_cross_entropy(x, w, target, PAD, chunk)
    dx, dw = torch.autograd.grad(loss * loss_scale, (x, w))
    return loss.detach(), dx, dw


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("chunk", [1, 7, 16, 37, 100, 0])
def test_equals_pytorch_in_fp32(chunk: int) -> None:
    batch = make_batch(37, 12, 50)
    for got, expected in zip(chunked(*batch, chunk), reference(*batch), strict=True):
        assert relative_error(got, expected) < 1e-6


@pytest.mark.parametrize("sharpness", [1.0, 1e2, 1e4])
def test_confident_and_hopeless_tokens(sharpness: float) -> None:
    """Where p is nearly 1 the gradient p - 1 is tiny; where p underflows the loss is still finite."""
    features, weight, _ = make_batch(8, 12, 50)
    best = F.linear(features, weight).argmax(1)
    target = torch.where(torch.arange(8) < 7, best, (best + 1) % 50)
    batch = (features * sharpness, weight, target)
    fp32 = reference(*batch, dtype=torch.float32)
    for got, expected, torchs_own in zip(chunked(*batch, 3), reference(*batch), fp32, strict=True):
        assert torch.isfinite(got).all()
        assert relative_error(got, expected) <= max(1e-6, 2 * relative_error(torchs_own, expected))


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**7, 2.0**15, 2.0**20])
def test_fp16_gradients_do_not_underflow(loss_scale: float) -> None:
    """V is large enough that a probability, 1/V, is subnormal in fp16."""
    features, weight, target = make_batch(24, 8, 40_000)
    features, weight = features.half(), weight.mul(1e-3).half()  # nearly uniform probabilities
    loss, dx, dw = chunked(features, weight, target, 7, loss_scale)
    expected_loss, expected_dx, expected_dw = reference(features, weight, target)
    # Logits are rounded to fp16, as in fairseq's models.
    assert relative_error(loss, expected_loss) < 1e-5
    assert dx.dtype == dw.dtype == torch.float16
    # Rows of words that are no target hold only probabilities: 1/V times a feature.
    others = torch.ones(len(weight), dtype=torch.bool)
    others[target] = False
    if loss_scale >= 2**7:  # below, the result itself cannot be held in fp16
        assert relative_error(dw[others], expected_dw[others] * loss_scale) < 2e-2
    if loss_scale >= 2**15:
        assert relative_error(dw[others], expected_dw[others] * loss_scale) < 2e-3
    if loss_scale <= 2**15:
        assert relative_error(dx, expected_dx * loss_scale) < 2e-3


def test_fp16_overflow_shows_as_inf() -> None:
    """fairseq's loss scaler steps back on inf; a clamped gradient would hide the overflow."""
    features, weight, target = make_batch(8, 8, 50)
    _, _, dw = chunked(features.half(), weight.half(), target, 4, 2.0**24)
    assert torch.isinf(dw).any()


def test_fp16_sum_over_tokens_does_not_overflow_inside() -> None:
    """One frequent word: its row of dW is a sum over all tokens and passes 65,504 with the scale."""
    features = torch.ones(2_048, 8)
    weight, target = torch.zeros(50, 8), torch.full((2_048,), 2)
    _, _, dw = chunked(features.half(), weight.half(), target, 0)
    assert torch.allclose(dw[2].float(), torch.full((8,), -2_048 * 0.98), rtol=1e-3)


def test_bf16() -> None:
    features, weight, target = make_batch(24, 8, 500)
    features, weight = features.bfloat16(), weight.bfloat16()
    for got, expected in zip(
        chunked(features, weight, target, 7), reference(features, weight, target), strict=True
    ):
        assert relative_error(got, expected) < 1e-2


@pytest.mark.parametrize("tokens", [0, 6])
def test_nothing_to_learn_from(tokens: int) -> None:
    """Empty batches and batches of padding: loss 0, gradients 0, of the right shape."""
    features, weight, _ = make_batch(tokens, 12, 50)
    loss, dx, dw = chunked(features, weight, torch.full((tokens,), PAD), 4)
    assert loss == 0
    assert torch.equal(dx, torch.zeros(tokens, 12))
    assert torch.equal(dw, torch.zeros(50, 12))


def test_ignore_index_outside_the_vocabulary() -> None:
    features, weight, target = make_batch(10, 12, 50)
    moved = target.masked_fill(target == PAD, -100)
    assert chunked_cross_entropy(features, weight, moved, -100, 4) == chunked_cross_entropy(
        features, weight, target, PAD, 4
    )


def test_tied_weight_accumulates_both_paths() -> None:
    _, weight, target = make_batch(20, 12, 50)
    tokens = torch.randint(0, 50, (20,))
    gradients: list[Tensor] = []
    for loss_of in (
        lambda x, w: chunked_cross_entropy(x, w, target, PAD, 6),
        lambda x, w: F.cross_entropy(F.linear(x, w), target, ignore_index=PAD, reduction="sum"),
    ):
        w = weight.clone().requires_grad_()
        loss = loss_of(torch.tanh(F.embedding(tokens, w)), w)
        gradients.extend(torch.autograd.grad(loss, w))
    assert relative_error(*gradients) < 1e-6


def test_gradients_of_one_input_only() -> None:
    features, weight, target = make_batch(20, 12, 50)
    _, expected_dx, expected_dw = chunked(features, weight, target, 6)
    x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
    assert torch.equal(
        torch.autograd.grad(chunked_cross_entropy(x, weight, target, PAD, 6), x)[0], expected_dx
    )
    assert torch.equal(
        torch.autograd.grad(chunked_cross_entropy(features, w, target, PAD, 6), w)[0], expected_dw
    )


def test_a_second_backward_is_refused() -> None:
    """Backward scales in place, so that a silent second one would give wrong gradients."""
    features, weight, target = make_batch(20, 12, 50)
    x = features.clone().requires_grad_()
    loss = chunked_cross_entropy(x, weight, target, PAD, 6) * 2
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_work_without_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight, target = make_batch(20, 12, 50)
    x, w = features.requires_grad_(), weight.requires_grad_()
    with_gradient = chunked_cross_entropy(x, w, target, PAD, 6)
    monkeypatch.setattr(torch.Tensor, "scatter_", None)  # part of the gradient, not of the loss
    with torch.no_grad():
        assert chunked_cross_entropy(x, w, target, PAD, 6) == with_gradient
    losses = token_losses(x, w, target, PAD, 6)
    assert not losses.requires_grad
    assert losses.sum() == with_gradient.detach()
    assert torch.equal(losses == 0, target == PAD)


def test_wide_autocast_is_left_outside() -> None:
    features, weight, target = make_batch(20, 12, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = chunked_cross_entropy(features, weight, target, PAD, 6)
    assert inside == chunked_cross_entropy(features, weight, target, PAD, 6)


def test_automatic_chunk() -> None:
    assert [automatic_chunk_tokens(n) for n in (1, 2_048, 16_384, 65_536, 1_000_000)] == [
        512, 512, 1_024, 4_096, 4_096,
    ]  # fmt: skip
