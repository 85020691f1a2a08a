"""Names of runs: metaseq's form, plain in a path and a shell, the same for the same values, and cut without clashes."""

import re
import string
from typing import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaseq_plugin.launch.spec import Value
from metaseq_plugin.launch.sweep.names import LONGEST, SHORT, follower_name, name_of

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from([*SHORT, "arch", "base", "data", "resources.nodes", "fp16", "adam-betas"]),
    st.text(string.ascii_lowercase + "-", min_size=1),
)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"lr": 0.0006, "batch-size": 8}, "lr0.0006.bs8"),
        ({"lr": 1e-5, "warmup-updates": 715}, "lr1e-05.wu715"),
        ({"adam-betas": "(0.9, 0.95)"}, "adam-betas0.9_0.95"),
        ({"lr": "6e-4,3e-4"}, "lr6e-4_3e-4"),
        ({"fp16": True, "bf16": False, "clip-norm": None}, "fp16.no-bf16.no-cl"),
        ({"arch": "opt_125m", "seed": 3}, "opt_125m.s3"),
        ({"base": "opt_1.3b", "resources.nodes": 4}, "opt_1.3b.nodes4"),
        ({"data": "../data/wiki:/x/books"}, "data.._data_wiki_x_books"),
        ({"lr": "$(rm -rf ~)\n"}, "lrrm_-rf"),
        ({}, "run"),
    ],
)
def test_the_name(values: Mapping[str, Value], name: str) -> None:
    assert name_of(values) == name


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_every_name_is_plain_and_short(values: Mapping[str, Value]) -> None:
    name = name_of(values)
    assert re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*", name)
    assert len(name) <= LONGEST
    assert name == name_of(dict(values))


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2, unique=True)
)
def test_different_numbers_have_different_names(numbers: list[float]) -> None:
    first, second = numbers
    if first != second:  # 0.0 and -0.0 are equal, and unique here
        assert name_of({"lr": first}) != name_of({"lr": second})


@given(
    st.lists(
        st.tuples(*(st.integers(-(10**9), 10**9) for _ in range(12))), min_size=2, max_size=20, unique=True
    )
)  # fmt: skip
def test_names_that_are_cut_stay_different(rows: list[tuple[int, ...]]) -> None:
    keys = [f"an-option-with-a-long-name-{n}" for n in range(12)]
    names = [name_of(dict(zip(keys, row))) for row in rows]
    assert len(set(names)) == len(rows)
    assert all(len(name) == LONGEST for name in names)


def test_a_run_that_starts_from_another_is_named_after_both() -> None:
    assert follower_name("lr0.1.s1", "lr1e-05") == "lr0.1.s1--lr1e-05"
    assert follower_name("lr0.1.s1", name_of({})) == "lr0.1.s1"
    assert len(follower_name("a" * 90, "b" * 90)) == LONGEST
