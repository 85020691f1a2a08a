"""Standard errors by hand, and what is not known: of a single item, and of figures that are no numbers."""

import math
import statistics

import pytest

from metaseq_plugin.evaluate.abilities.lambada import Lambada
from metaseq_plugin.evaluate.abilities.wikitext import WikiText
from metaseq_plugin.evaluate.statistics import bootstrap, mean_and_error, perplexity
from metaseq_plugin.evaluate.task import Options


def test_mean_and_error_by_hand() -> None:
    # deviations -1, 0, 1: s = 1, over sqrt(3)
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))


def test_of_a_single_item_no_error_is_known() -> None:
    assert mean_and_error([0.25]) == (0.25, None)
    assert bootstrap([0.25], statistics.fmean, seed=1) == (None, None)


def test_bootstrap_of_a_mean_is_near_its_error() -> None:
    values = [float(number % 7) for number in range(700)]
    error, interval = bootstrap(values, statistics.fmean, seed=1)
    mean, known = mean_and_error(values)
    assert known is not None
    assert error == pytest.approx(known, rel=0.1)
    assert interval == pytest.approx((mean - 1.96 * known, mean + 1.96 * known), abs=0.02)


def test_figures_that_are_not_finite_have_no_interval() -> None:
    assert perplexity(math.log(12)) == pytest.approx(12)
    assert perplexity(800.0) == math.inf
    assert bootstrap([1.0, 800.0], lambda one: perplexity(one[0]), seed=1) == (None, None)


def test_a_model_that_diverged_has_a_perplexity_that_is_no_number() -> None:
    records = [{"log_likelihood": -900.0, "is_greedy": False}] * 2
    (found, acc) = Lambada().measures(records, Options())
    assert (found.value, found.stderr, found.interval) == (math.inf, None, None)
    assert acc.value == 0
    articles = [{"log_likelihood": -9000.0, "nwords": 10, "nbytes": 50}] * 2
    by_name = {measure.name: measure.value for measure in WikiText().measures(articles, Options())}
    assert by_name["word_perplexity"] == math.inf
    assert by_name["bits_per_byte"] == pytest.approx(180 / math.log(2))
