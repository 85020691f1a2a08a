"""One choice from given logits: what survives truncation, how often it is taken, what it scores."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.generation.sampling import (
    FIRST_LOOK,
    Rule,
    choose,
    count_repeats,
    sample,
    truncate,
    uniform_numbers,
)


def surviving(probs: list[float], top_k: int, top_p: float) -> dict[int, float]:
    """The definition, token by token: top-k, renormalise, the fewest that reach top-p, renormalise."""
    ranked = sorted(range(len(probs)), key=lambda i: -probs[i])[: top_k or None]
    total = sum(probs[i] for i in ranked)
    kept: list[int] = []
    for i in ranked:
        if kept and sum(probs[j] for j in kept) / total >= top_p:
            break
        kept.append(i)
    mass = sum(probs[i] for i in kept)
    return {i: probs[i] / mass for i in kept}


@given(
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=12, unique=True),
    top_k=st.integers(0, 15),
    top_p=st.floats(0, 1),
)
@settings(deadline=None, max_examples=200)
def test_truncation_keeps_exactly_what_the_definition_keeps(
    weights: list[int], top_k: int, top_p: float
) -> None:
    probs = [w / sum(weights) for w in weights]
    expected = surviving(probs, top_k, top_p)
    kept, ids = truncate(torch.tensor([probs], dtype=torch.float64).log(), top_k, top_p)
    found = {i: p for i, p in zip(ids[0].tolist(), kept[0].tolist()) if p > 0}
    if abs(sum(found.values()) - top_p) < 1e-9:
        return  # a cumulative probability that equals top-p up to rounding may fall either way
    total = sum(found.values())
    assert found.keys() == expected.keys()
    for i, p in found.items():
        assert p / total == pytest.approx(expected[i], rel=1e-9)


def test_first_look_and_full_sort_keep_the_same() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 8 * FIRST_LOOK) * torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    for top_p in (0.2, 0.9):
        together, ids = truncate(logits[2:], 0, top_p)
        sure, sure_ids = truncate(logits, 0, top_p)  # the flat row forces the full sort
        number = int((sure[2:] > 0).sum(1).max())
        assert ids.size(1) == FIRST_LOOK
        assert sure.size(1) == logits.size(1)
        assert torch.equal(ids[:, :number], sure_ids[2:, :number])
        torch.testing.assert_close(together[:, :number], sure[2:, :number], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (4, 0.8), (0, 0.0)])
def test_each_token_is_taken_for_its_share_of_the_numbers(top_k: int, top_p: float) -> None:
    """Evenly spaced numbers instead of random ones: the shares come out exactly."""
    probs = [0.05, 0.4, 0.1, 0.25, 0.2]
    count = 10_000
    uniforms = (torch.arange(count) + 0.5) / count
    logits = torch.tensor([probs]).log().expand(count, -1).contiguous()
    taken = sample(logits, uniforms, top_k, top_p).bincount(minlength=5) / count
    expected = surviving(probs, top_k, top_p)
    for token in range(5):
        assert taken[token].item() == pytest.approx(expected.get(token, 0.0), abs=1.01 / count)


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


def test_scores_are_of_the_untruncated_distribution_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5]])
    uniforms = torch.tensor([0.99])
    tokens, scores = choose(logits.clone(), Rule((1,), 0.5, 1, 1.0, True), uniforms)
    assert tokens.tolist() == [2]  # 1 is blocked, and of the rest one is left
    expected = (logits / 0.5).log_softmax(-1)[0, 2]
    torch.testing.assert_close(scores[0], expected)
    _, scores = choose(logits.clone(), Rule((), 0.0, 0, 1.0, True), None)
    torch.testing.assert_close(scores[0], logits.log_softmax(-1)[0, 1])
    assert choose(logits.clone(), Rule((), 0.0, 0, 1.0, False), None)[1].tolist() == [3.0]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_blocked_tokens_are_never_taken(uniform: float) -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0, 9.0]])
    for top_k, top_p in ((0, 1.0), (4, 1.0), (0, 0.99)):
        row = logits.clone()
        tokens, _ = choose(row, Rule((0, 3), 1.0, top_k, top_p, False), torch.tensor([uniform]))
        assert tokens.item() in (1, 2)
