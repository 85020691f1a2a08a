"""Attention with dropout by rows, against PyTorch's and against its own definition with the same entries dropped.

B batch, T tokens, H heads, K head dim.
"""

from typing import Callable, Optional

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metaseq_plugin.modules import attention_rows
from metaseq_plugin.modules.attention import attention
from metaseq_plugin.modules.attention_rows import dropped_attention
from metaseq_plugin.modules.dropout import kept_entries

BATCH, HEADS, TOKENS, DIM = 2, 2, 8, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a block, and two in the last."""
    monkeypatch.setattr(attention_rows, "BLOCK_ELEMENTS", 3 * BATCH * HEADS * TOKENS)


def inputs() -> list[Tensor]:
    """Query, key and value as a layer has them: views."""
    torch.manual_seed(0)
    shape = BATCH, TOKENS, HEADS, DIM
    return [
        torch.randn(shape, dtype=torch.float64, requires_grad=True).transpose(1, 2)
        for _ in range(3)
    ]


def documents() -> Tensor:
    """(B, 1, T, T): causal, and nothing is seen across a border that lies elsewhere in each sample."""
    place = torch.arange(TOKENS)
    border = torch.tensor([3, 5])[:, None, None]
    sees = (place <= place[:, None]) & ((place >= border) == (place[:, None] >= border))
    return torch.zeros(sees.shape, dtype=torch.float64).masked_fill_(~sees, -torch.inf)[:, None]


MASKS: list[Callable[[], Optional[Tensor]]] = [lambda: None, documents]


@pytest.mark.parametrize("mask", MASKS, ids=["causal", "documents"])
def test_gradients(mask: Callable[[], Optional[Tensor]]) -> None:
    def seeded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(1)
        return dropped_attention(q, k, v, mask(), 0.3)

    assert torch.autograd.gradcheck(seeded, inputs())


@pytest.mark.parametrize("mask", MASKS, ids=["causal", "documents"])
def test_hardly_any_dropout_is_none(mask: Callable[[], Optional[Tensor]]) -> None:
    """With a probability that rounds to 0."""
    q, k, v = inputs()
    expected = F.scaled_dot_product_attention(q, k, v, mask(), is_causal=mask() is None)
    torch.testing.assert_close(dropped_attention(q, k, v, mask(), 1e-6), expected)


def test_what_is_dropped_is_gone_and_the_rest_scaled_up() -> None:
    """With a value of one word each, the output is the matrix of weights itself."""
    q, k, _ = inputs()
    words = torch.eye(TOKENS, dtype=torch.float64).expand(BATCH, HEADS, TOKENS, TOKENS)
    q, k = (F.pad(x, (0, TOKENS - DIM)) for x in (q, k))  # as wide as the values
    whole = F.scaled_dot_product_attention(q, k, words, is_causal=True)
    got = dropped_attention(q, k, words, None, 0.25)
    is_dropped = got == 0
    torch.testing.assert_close(got, torch.where(is_dropped, 0, whole / 0.75))
    seen = whole > 0
    assert 0.05 < is_dropped[seen].double().mean() < 0.5


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_share_that_stays(dropout: float) -> None:
    """Each of the four parts of a random word: within five standard deviations."""
    torch.manual_seed(2)
    count = 400_000
    stays = kept_entries(torch.Size((4 * count,)), round(dropout * 65_536)).view(count, 4)
    error = (stays.double().mean(0) - (1 - dropout)).abs()
    assert error.max() < 5 * (dropout * (1 - dropout) / count) ** 0.5


def test_recomputation_drops_the_same() -> None:
    gradients = []
    for recomputes in (False, True):
        q, k, v = inputs()
        torch.manual_seed(3)
        y = (
            checkpoint(attention, q, k, v, None, 0.3, use_reentrant=False)
            if recomputes
            else attention(q, k, v, None, 0.3)
        )
        torch.rand(1)  # what else draws between forward and backward
        gradients.append(torch.autograd.grad(y.square().sum(), (q, k, v)))
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


def test_no_matrix_of_all_rows_is_made() -> None:
    """Kept for the backward pass are inputs, output, a number a row, and a byte an entry."""
    q, k, v = inputs()
    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        dropped_attention(q, k, v, None, 0.1)
    largest = max(x.numel() for x in saved if x.element_size() > 1)
    assert largest == BATCH * HEADS * TOKENS * DIM
    assert sum(x.numel() for x in saved if x.element_size() == 1) < 0.7 * BATCH * HEADS * TOKENS**2


def test_the_projection_behind_it_needs_no_copy() -> None:
    """Heads lie side by side again, as the query's do: what the projection saves is what is saved here."""
    q, k, v = inputs()
    y = dropped_attention(q, k, v, None, 0.1)
    assert y.transpose(1, 2).is_contiguous()


def test_a_probability_that_rounds_to_1_still_keeps_some() -> None:
    torch.manual_seed(0)
    q, k, v = torch.zeros(3, 1, 1, 400, 4).unbind()
    y = dropped_attention(q, k, torch.ones_like(v), None, 1 - 1e-9)
    assert (y == 0).double().mean() > 0.9


def test_without_dropout_it_is_pytorchs() -> None:
    q, k, v = inputs()
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(attention(q, k, v, None, 0.0), expected)
