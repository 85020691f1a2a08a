"""The points of a sweep: grid, zip, list and random, alone and multiplied, against what they are by definition."""

import itertools
import math
from typing import Any, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseq_plugin.launch.sweep.marked import from_plain
from metaseq_plugin.launch.sweep.points import Point, read_points, without_repeats

FIRST_TWO: list[dict[str, Any]] = [
    {"lr": 0.001158, "dropout": 0.1855, "seed": 53, "clip-norm": 1.0},
    {"lr": 0.001783, "dropout": 0.05686, "seed": 74, "clip-norm": 0.3},
]
PLAIN = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.booleans(), st.none())  # fmt: skip
COLUMNS = st.dictionaries(st.text(min_size=1), st.lists(PLAIN, min_size=1, max_size=4), min_size=1, max_size=4)  # fmt: skip


def points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(point.values) for point in read_points(from_plain(sweep, "sweep.py"))[0]]


@given(COLUMNS)
def test_a_grid_is_the_product(columns: dict[str, list[Any]]) -> None:
    rows = [dict(zip(columns, row)) for row in itertools.product(*columns.values())]
    assert points({"grid": columns}) == rows


@given(st.integers(1, 5).flatmap(lambda n: st.dictionaries(st.text(min_size=1), st.lists(PLAIN, min_size=n, max_size=n), min_size=1, max_size=4)))  # fmt: skip
def test_a_zip_takes_the_first_with_the_first(columns: dict[str, list[Any]]) -> None:
    assert points({"zip": columns}) == [dict(zip(columns, row)) for row in zip(*columns.values())]


def test_a_list_is_as_it_stands_with_its_keys_in_one_order() -> None:
    rows = [{"lr": 0.1, "seed": 1}, {"seed": 2, "lr": 0.2}, {"seed": 3}]
    found = points({"list": rows})
    assert found == rows
    assert [list(row) for row in found] == [["lr", "seed"], ["lr", "seed"], ["seed"]]


def test_sections_multiply_in_the_order_of_the_file() -> None:
    sweep = {
        "zip": {"arch": ["a", "b"], "lr": [1, 2]},
        "grid": {"seed": [1, 2]},
        "list": [{"x": 7}],
    }
    assert points(sweep) == [
        {"arch": "a", "lr": 1, "seed": 1, "x": 7},
        {"arch": "a", "lr": 1, "seed": 2, "x": 7},
        {"arch": "b", "lr": 2, "seed": 1, "x": 7},
        {"arch": "b", "lr": 2, "seed": 2, "x": 7},
    ]
    assert points({}) == [{}]


def drawn(draw: Mapping[str, Any], number: int, seed: int = 1) -> list[dict[str, Any]]:
    return points({"random": {"number": number, "seed": seed, "draw": draw}})


def column(distribution: Mapping[str, Any], number: int = 4000, seed: int = 1) -> list[Any]:
    return [row["x"] for row in drawn({"x": distribution}, number, seed)]


def test_the_same_file_draws_the_same_values_everywhere() -> None:
    draw = {
        "lr": {"log-uniform": [1e-4, 1e-2]},
        "dropout": {"uniform": [0, 0.3]},
        "seed": {"integer": [1, 100]},
        "clip-norm": {"choice": [0.3, 1.0]},
    }
    # Written down once: another Python or machine must draw them too.
    assert drawn(draw, 2) == FIRST_TWO


def test_another_key_or_a_larger_number_changes_nothing_that_was_drawn() -> None:
    lr = {"lr": {"log-uniform": [1e-4, 1e-2]}}
    few = drawn(lr, 5)
    assert drawn(lr, 9)[:5] == few
    more = drawn({"dropout": {"uniform": [0, 1]}, **lr}, 5)
    assert [{"lr": row["lr"]} for row in more] == few
    assert drawn(lr, 5, seed=2) != few


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(0, 1000))
def test_a_uniform_value_lies_in_its_range(low: float, width: float, seed: int) -> None:
    assert all(low <= value <= low + width for value in column({"uniform": [low, low + width]}, 20, seed))  # fmt: skip


def test_distributions_have_their_means() -> None:
    number = 4000
    values = column({"uniform": [2, 4]}, number)
    # Four standard errors of the mean, by the distribution's own deviation.
    assert abs(sum(values) / number - 3) < 4 * 2 / math.sqrt(12 * number)
    logs = [math.log10(value) for value in column({"log-uniform": [1e-4, 1e-2]}, number)]
    assert abs(sum(logs) / number + 3) < 4 * 2 / math.sqrt(12 * number)
    integers = column({"integer": [1, 6]}, number)
    assert set(integers) == {1, 2, 3, 4, 5, 6}
    assert abs(sum(integers) / number - 3.5) < 4 * math.sqrt(35 / 12 / number)
    chosen = column({"choice": ["a", "b"]}, number)
    assert abs(chosen.count("a") / number - 0.5) < 4 * 0.5 / math.sqrt(number)


def test_real_numbers_have_four_digits() -> None:
    assert all(float(f"{value:.4g}") == value for value in column({"uniform": [0.1, 0.9]}, 50))


@pytest.mark.parametrize(
    ("values", "number"),
    [([1, 2, 1], 2), ([0.0006, 6e-4], 1), ([None, False], 1), ([1, True], 2), ([1, 1.0], 2), (["1", 1], 1)],
)  # fmt: skip
def test_points_that_give_the_same_command_are_one(values: list[Any], number: int) -> None:
    found = [Point({"lr": value}, "") for value in values]
    different = list(without_repeats(found))
    assert len(different) == number
    assert sum(count for _, count in different) == len(values)
