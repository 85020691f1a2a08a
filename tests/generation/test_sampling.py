"""One choice from given logits: what survives truncation, and how often it is taken."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from metaseq_plugin.generation.sampling import (
    BLOCK,
    LOOKS,
    count_repeats,
    first_beyond,
    sample_all,
    sample_likeliest,
    truncate,
    uniform_numbers,
)
from tests.generation.sampled import surviving


def bounds(top_k: int, top_p: float, rows: int = 1) -> tuple[Tensor, Tensor]:
    """The same bounds for every row."""
    return torch.full((rows,), top_k), torch.full((rows,), top_p, dtype=torch.float64)


@given(
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=12, unique=True),
    top_k=st.integers(0, 15),
    top_p=st.floats(0, 1),
)
@settings(deadline=None, max_examples=200)
def test_truncation_keeps_exactly_what_the_definition_keeps(
    weights: list[int], top_k: int, top_p: float
) -> None:
    among = sorted(weights, reverse=True)[: top_k or None]
    shares = [reached / sum(among) for reached in itertools.accumulate(among)]
    # A cumulative probability that equals top-p up to rounding may fall either way.
    assume(all(abs(share - top_p) > 1e-9 for share in shares))
    probs = {token: weight / sum(weights) for token, weight in enumerate(weights)}
    expected = surviving(probs, top_k, top_p)
    logits = torch.tensor([weights], dtype=torch.float64).log()
    size = len(weights)
    kept, ids, _ = truncate(logits, *bounds(top_k or size, top_p), size, True)
    found = {i: p for i, p in zip(ids[0].tolist(), kept[0].tolist()) if p > 0}
    total = sum(found.values())
    assert found.keys() == expected.keys()
    for i, p in found.items():
        assert p / total == pytest.approx(expected[i], rel=1e-9)


@pytest.mark.parametrize("top_p", [0.2, 0.9])
def test_rows_that_need_a_wider_look_get_what_a_full_sort_gives(top_p: float) -> None:
    torch.manual_seed(0)
    vocab, spread = 8 * LOOKS[-1], torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    logits = torch.randn(4, vocab) * spread + 1e-4 * torch.rand(4, vocab)  # no two are equal
    widths = [
        int((truncate(row[None], *bounds(vocab, top_p), vocab, True)[0] > 0).sum())
        for row in logits
    ]
    assert widths[0] > LOOKS[-1] > widths[2]  # some rows are done at the first look, some at none
    assert widths[3] < LOOKS[0]
    for uniform in torch.rand(50, 4, generator=torch.Generator().manual_seed(1)):
        found = sample_likeliest(logits, uniform, *bounds(vocab, top_p, 4), LOOKS[0], False)
        sure = sample_likeliest(logits, uniform, *bounds(vocab, top_p, 4), vocab, True)
        assert torch.equal(found, sure)
        for row in range(4):  # and so does each by itself
            one = slice(row, row + 1)
            alone = sample_likeliest(
                logits[one], uniform[one], *bounds(vocab, top_p), LOOKS[0], False
            )
            assert torch.equal(alone, found[one])


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (3, 1.0), (5, 0.7), (4, 0.8), (5, 0.0)])
def test_each_token_is_taken_for_its_share_of_the_numbers(top_k: int, top_p: float) -> None:
    """Evenly spaced numbers instead of random ones: the shares come out exactly."""
    probs = [0.05, 0.4, 0.1, 0.25, 0.2]
    count = 10_000
    uniforms = (torch.arange(count) + 0.5) / count
    logits = torch.tensor([probs]).log().expand(count, -1).contiguous()
    taken = sample_likeliest(logits, uniforms, *bounds(top_k, top_p, count), 5, True)
    expected = surviving(dict(enumerate(probs)), top_k, top_p)
    shares = taken.bincount(minlength=5) / count
    for token in range(5):
        assert shares[token].item() == pytest.approx(expected.get(token, 0.0), abs=1.01 / count)


@pytest.mark.parametrize("vocab", [5, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_blocks_give_each_token_its_share_of_the_numbers(vocab: int) -> None:
    count = 20_000
    uniforms = (torch.arange(count) + 0.5) / count
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab))
    logits[[0, vocab - 1]] = -torch.inf
    taken = sample_all(logits.expand(count, -1), uniforms).bincount(minlength=vocab) / count
    torch.testing.assert_close(taken, logits.softmax(-1), rtol=0, atol=1.01 / count)
    assert taken[0] == taken[vocab - 1] == 0


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.5, 3.0]), min_size=1, max_size=9),
    threshold=st.sampled_from([-1.0, -1e-17, 0.0, 1e-30, 0.5, 1.0, 3.0, 99.0]),
)
def test_a_column_without_weight_is_never_the_first_beyond(
    weights: list[float], threshold: float
) -> None:
    assume(any(weights))
    reached = torch.tensor([weights], dtype=torch.float64).cumsum(-1)
    column = int(first_beyond(reached, torch.tensor([[threshold]], dtype=torch.float64)))
    rises = [i for i in range(len(weights)) if reached[0, i] > (reached[0, i - 1] if i else 0)]
    beyond = [i for i in rises if reached[0, i] > threshold]
    assert column == (beyond or rises[-1:])[0]


def test_random_numbers_are_uniform_and_rows_unrelated() -> None:
    numbers = torch.cat([uniform_numbers(1, [2, i], 0, 2, 64) for i in range(200)])
    assert numbers.shape == (400, 64)
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    expected = numbers.numel() / 20
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 43.8  # 99.9% of uniform samples, 19 degrees of freedom
    correlation = torch.corrcoef(numbers[:40]).fill_diagonal_(0).abs().max().item()
    assert correlation < 0.6


def test_numbers_belong_to_seed_prompt_and_sample() -> None:
    first = uniform_numbers(5, [2, 7], 0, 3, 8)
    second = uniform_numbers(5, [2, 9], 0, 3, 8)
    longer = uniform_numbers(5, [2, 9], 0, 3, 20)
    fewer = uniform_numbers(5, [2, 9], 0, 1, 8)
    again = uniform_numbers(5, [2, 9], 1, 3, 8)
    other = uniform_numbers(6, [2, 9], 0, 3, 8)
    assert torch.equal(uniform_numbers(5, [2, 9], 0, 3, 8), second)
    assert torch.equal(longer[:, :8], second)
    assert torch.equal(fewer, second[:1])
    rows = torch.cat([first, second, again, other])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


def test_repeats_are_counted() -> None:
    assert count_repeats([[2], [2, 3], [2], [2], [2, 3]]) == [0, 0, 1, 2, 1]
