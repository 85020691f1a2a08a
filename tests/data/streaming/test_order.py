"""Permutations permute, epochs draw what was asked for, and mixtures have the shares they should."""

from collections import Counter
from typing import Optional

import numpy as np
import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.streaming.mixing import (
    Mixing,
    MixingUnit,
    check_mixing,
    documents_drawn,
    parse_weights,
    shares,
)
from metaseq_plugin.data.streaming.order import DocumentOrder, permuted, round_keys


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 100, 255, 256, 257, 4_097, 100_003])
def test_every_number_comes_once(size: int) -> None:
    numbers = np.arange(size)
    result = permuted(numbers, size, round_keys(1, size), np.zeros(size, dtype=np.int64))
    assert sorted(result.tolist()) == numbers.tolist()
    if size > 99:
        assert abs(np.corrcoef(numbers, result)[0, 1]) < 4 / np.sqrt(size)
        assert np.mean(np.diff(result) == 1) < 0.05


def test_permutations_are_as_good_as_random() -> None:
    """Where 0 is sent by 6,000 permutations of 6: each place about equally often."""
    tweaks = np.arange(6_000)
    places = permuted(np.zeros(6_000, dtype=np.int64), 6, round_keys(3), tweaks)
    counts = np.bincount(places, minlength=6)
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 20.5  # chi square, 5 degrees: 1 in 1,000
    numbers, tweaks = np.tile(np.arange(3), 1_200), np.repeat(np.arange(1_200), 3)
    orders = Counter(
        map(tuple, permuted(numbers, 3, round_keys(4), tweaks).reshape(-1, 3).tolist())
    )
    assert len(orders) == 6
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 20.5


def order_of(epoch: int, drawn: list[int], seed: int = 1, shuffles: bool = True) -> DocumentOrder:
    return DocumentOrder(np.array([100, 40, 10]), np.array(drawn), seed, epoch, shuffles)


def test_numbers_can_be_looked_up_anywhere() -> None:
    order = order_of(2, [100, 80, 15])
    corpora, documents = order.lookup(0, len(order))
    for first, last in ((0, 1), (17, 60), (190, 195)):
        part = order.lookup(first, last)
        assert part[0].tolist() == corpora[first:last].tolist()
        assert part[1].tolist() == documents[first:last].tolist()


def test_passes_go_on_over_epochs() -> None:
    """Three epochs of 30, 60 and 25: no document is seen twice more than another."""
    seen: list[Counter] = [Counter(), Counter(), Counter()]
    for epoch in (1, 2, 3):
        corpora, documents = order_of(epoch, [30, 60, 25]).lookup(0, 115)
        assert np.bincount(corpora).tolist() == [30, 60, 25]
        for corpus, document in zip(corpora.tolist(), documents.tolist()):
            seen[corpus][document] += 1
    for counts, size in zip(seen, (100, 40, 10)):
        times = [counts[document] for document in range(size)]
        assert max(times) - min(times) <= 1


def test_seeds_and_epochs_give_other_orders() -> None:
    lookups = [
        order_of(epoch, [100, 40, 10], seed).lookup(0, 150)[1].tolist()
        for epoch, seed in ((1, 1), (2, 1), (1, 2), (1, 1))
    ]
    assert lookups[0] == lookups[3]
    assert lookups[0] != lookups[1] != lookups[2] != lookups[0]
    corpora, documents = order_of(1, [100, 40, 10], shuffles=False).lookup(0, 150)
    assert documents.tolist() == [*range(100), *range(40), *range(10)]
    assert corpora.tolist() == sorted(corpora.tolist())


NAMES = ["web", "books", "wiki"]
DOCUMENTS = np.array([150_000, 10_000, 40_000])
TOKENS_A_DOCUMENT = np.array([300, 9_000, 700])
BYTES = DOCUMENTS * TOKENS_A_DOCUMENT * 4
MIXINGS = {
    "alpha 0.3": (Mixing(alpha=0.3), DOCUMENTS**0.3),
    "alpha 0.7": (Mixing(alpha=0.7), DOCUMENTS**0.7),
    "alpha 1": (Mixing(), DOCUMENTS.astype(float)),
    "cap": (Mixing(maximum=20_000), np.array([20_000, 10_000, 20_000])),
    "cap and alpha": (Mixing(0.5, 20_000), np.array([20_000, 10_000, 20_000]) ** 0.5),
    "weights": (Mixing(weights={"wiki": 3, "web": 5, "books": 2}), np.array([5, 2, 3])),
}


@pytest.mark.parametrize("name", MIXINGS)
def test_realised_shares_are_those_asked_for(name: str) -> None:
    """Over 200,000 documents, and already over the first 50,000 of them."""
    mixing, wanted = MIXINGS[name]
    check_mixing(mixing)
    drawn = documents_drawn(NAMES, DOCUMENTS, BYTES, mixing)
    assert drawn.sum() == 200_000
    order = DocumentOrder(DOCUMENTS, drawn, 1, 1, True)
    corpora, documents = order.lookup(0, len(order))
    for number in (50_000, 200_000):
        share = np.bincount(corpora[:number], minlength=3) / number
        assert np.abs(share - wanted / wanted.sum()).max() < 0.01
    assert len({(c, d) for c, d in zip(corpora.tolist(), documents.tolist())}) == sum(
        np.minimum(drawn, DOCUMENTS)
    )


def test_shares_of_bytes_are_shares_of_tokens_where_tokens_are_alike() -> None:
    mixing = Mixing(weights={"wiki": 1, "web": 1, "books": 2}, unit=MixingUnit.bytes)
    drawn = documents_drawn(NAMES, DOCUMENTS, BYTES, mixing)
    tokens = drawn * TOKENS_A_DOCUMENT
    assert np.abs(tokens / tokens.sum() - [0.25, 0.5, 0.25]).max() < 0.001
    assert tokens.sum() == pytest.approx((DOCUMENTS * TOKENS_A_DOCUMENT).sum(), rel=0.001)


def test_a_weight_of_zero_leaves_a_corpus_out() -> None:
    drawn = documents_drawn(
        NAMES, DOCUMENTS, BYTES, Mixing(weights={"web": 1, "books": 0, "wiki": 1})
    )
    assert drawn.tolist() == [100_000, 0, 100_000]
    corpora, _ = DocumentOrder(DOCUMENTS, drawn, 1, 1, True).lookup(0, 1_000)
    assert set(corpora.tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("wiki", "has 'wiki'"),
        ("wiki=1,wiki=2", "has 'wiki=2'"),
        ("wiki=-1", "has 'wiki=-1'"),
        ("wiki=nan", "has 'wiki=nan'"),
        ("=1", "has '=1'"),
        ("", "has ''"),
        ("wiki=0,web=0", "must have a weight above 0"),
    ],
)
def test_bad_weights_are_refused(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        parse_weights(text)


def test_weights_must_name_every_corpus() -> None:
    assert parse_weights(" web=1, a=b=2") == {"web": 1, "a=b": 2}
    assert parse_weights(None) is None
    with pytest.raises(
        UserError, match="must name each corpus \\(books, web, wiki\\), but names web"
    ):
        shares(NAMES, DOCUMENTS, Mixing(weights={"web": 1}))


@pytest.mark.parametrize(
    ("alpha", "maximum", "weights", "option"),
    [
        (-0.1, None, None, "--multicorpus-sampling-alpha"),
        (float("nan"), None, None, "--multicorpus-sampling-alpha"),
        (1.0, 0.0, None, "--multicorpus-sampling-maximum"),
        (0.5, None, {"a": 1.0}, "--corpus-weights"),
        (1.0, 10.0, {"a": 1.0}, "--corpus-weights"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    alpha: float, maximum: Optional[float], weights: Optional[dict], option: str
) -> None:
    with pytest.raises(UserError, match=f"^`{option}` must"):
        check_mixing(Mixing(alpha, maximum, weights))
