"""Copies: exact ones are never missed, near ones are found as often as the theory says."""

import numpy as np
import pytest

from metaseq_plugin.data.tools.clean import duplicates
from metaseq_plugin.data.tools.clean.duplicates import StayingDocuments, digest, shingles, signature
from tests.data.tools.corpus import essays, nearly


def jaccard(a: str, b: str) -> float:
    """Computed from the sets themselves."""
    one, other = set(shingles(a)), set(shingles(b))
    return len(one & other) / len(one | other)


def test_shingles_are_runs_of_words() -> None:
    assert list(shingles("A b  c\nd e F")) == [b"a b c d e", b"b c d e f"]
    assert list(shingles("One two")) == [b"one two"]
    assert list(shingles("")) == [b""]


def test_signatures_estimate_the_similarity() -> None:
    """Of 40 pairs the estimates miss by less than four standard deviations, and on average by little."""
    errors = []
    for text in essays(40, 400):
        other = nearly(text, 8)
        similarity = jaccard(text, other)
        estimate = float(np.mean(signature(text) == signature(other)))
        errors.append(estimate - similarity)
        assert abs(errors[-1]) < 4 * (similarity * (1 - similarity) / 128) ** 0.5
    assert abs(np.mean(errors)) < 0.02


def test_a_signature_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    text = essays(1, 500)[0]
    whole = signature(text)
    monkeypatch.setattr(duplicates, "BATCH", 7)
    np.testing.assert_array_equal(signature(text), whole)


def test_near_copies_are_found_and_others_are_not() -> None:
    texts = essays(300)
    staying = StayingDocuments(0.8)
    for text in texts:
        assert staying.exact_copy_of(digest(text)) is None
        assert staying.near_copy_of(signature(text)) is None
        staying.add(digest(text), signature(text))
    near = [nearly(text, 1) for text in texts]  # 5 of 116 shingles differ: similarity 0.92
    assert all(jaccard(a, b) == pytest.approx(111 / 121) for a, b in zip(texts, near))
    found = [staying.near_copy_of(signature(text)) for text in near]
    assert [staying.exact_copy_of(digest(text)) for text in texts] == list(range(300))
    # 14 bands of 9: a similarity of 0.92 is missed once in 4,000; below 0.8 the estimate may still say no.
    assert sum(a == b for a, b in enumerate(found)) >= 298
    far = [nearly(text, 10) for text in texts]  # 50 of 116 shingles differ: similarity 0.4
    assert all(jaccard(a, b) < 0.45 for a, b in zip(texts, far))
    assert [staying.near_copy_of(signature(text)) for text in far] == [None] * 300


def test_the_first_of_several_counts() -> None:
    text = essays(1)[0]
    staying = StayingDocuments(0.5)
    for other in (nearly(text, 1), nearly(text, 2), text):
        staying.add(digest(other), signature(other))
    assert staying.near_copy_of(signature(text)) == 0


def test_a_threshold_of_one_finds_exact_copies_only() -> None:
    text = essays(1)[0]
    staying = StayingDocuments(1)
    staying.add(digest(text), None)
    assert staying.near_copy_of(signature(text)) is None
    assert staying.exact_copy_of(digest(text)) == 0
