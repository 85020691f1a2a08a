"""The table of published numbers: each has a source, none stands twice, and the nearest size is found."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from metaseq_plugin.evaluate.published import nearest, of_task, published, series
from metaseq_plugin.evaluate.tasks import GROUPS, TASKS, load

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"percent": (0, 100), "share": (0, 1), "perplexity": (1, math.inf)}
# The sizes of OPT's paper, Table 1, and of the models beside it.
SIZES = {"125M", "350M", "1.3B", "2.7B", "6.7B", "13B", "30B", "66B", "175B"}


@pytest.mark.parametrize(
    "row", published(), ids=lambda row: f"{row.task}-{row.measure}-{row.group}-{row.model}"
)
def test_every_number_has_a_source_a_place_and_a_unit_that_it_fits(row) -> None:  # type: ignore[no-untyped-def]
    assert all((row.task, row.measure, row.group, row.model, row.source, row.place))
    low, high = UNITS[row.unit]
    assert low <= row.value <= high
    if row.is_opt:
        assert row.model.removeprefix("OPT-") in SIZES
        assert row.size == int(
            float(row.model[4:-1]) * {"M": 10**6, "B": 10**9}[row.model[-1]] + 0.5
        )


def test_figures_of_abilities_say_how_many_examples_they_had() -> None:
    """Beside figures of ``--shots 32``, a reader must see that they are of none."""
    rows = [row for row in published() if row.task in ("lambada", *GROUPS["abilities"])]
    assert len(rows) == 6 * 8  # every size of six figures
    assert all(row.place.endswith(", zero-shot") for row in rows)


def test_no_number_stands_twice() -> None:
    keys = Counter((row.task, row.measure, row.group, row.model) for row in published())
    assert not [key for key, count in keys.items() if count > 1]


def test_one_measure_has_one_unit() -> None:
    units = {(row.task, row.measure): row.unit for row in published()}
    assert all(units[row.task, row.measure] == row.unit for row in published())


def test_icat_follows_from_its_parts() -> None:
    """A slip of the pen in StereoSet's rows would show: icat = lms · min(ss, 100 - ss) / 50, of numbers rounded to 0.1."""
    rows = {(row.model, row.group, row.measure): row.value for row in of_task("stereoset")}
    keys = {(model, group) for model, group, _ in rows}
    assert len(keys) == 10
    for model, group in keys:
        lms, ss, icat = (rows[model, group, measure] for measure in ("lms", "ss", "icat"))
        share = min(ss, 100 - ss)
        rounding = 0.05 + 0.05 * (lms + share) / 50
        assert icat == pytest.approx(lms * share / 50, abs=rounding), (model, group)


def test_every_file_of_the_package_is_installed() -> None:
    line = re.search(r'^"\*" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)  # fmt: skip
    assert line is not None
    patterns = ["*.py", *re.findall(r'"([^"]+)"', line[1])]
    package = ROOT / "metaseq_plugin"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip
    assert package / "evaluate/published.tsv" in files
    assert not [path for path in files if not any(map(path.match, patterns))]


@pytest.mark.parametrize("name", sorted({row.task for row in published()}))
def test_a_task_with_published_numbers_is_one_of_ours(name: str) -> None:
    assert name in TASKS
    assert load(name).name == name


@pytest.mark.parametrize(
    ("key", "model", "value"),
    [
        (("crows-pairs", "stereotype_score", "overall", 125e6), "OPT-175B", 69.5),
        (("crows-pairs", "stereotype_score", "religion", 175e9), "OPT-175B", 68.6),
        (("stereoset", "icat", "profession", 1e9), "OPT-175B", 55.4),
        (("ethos", "f1 few-shot multiclass", "overall", 1e9), "OPT-175B", 0.812),
        (("saferdialogues", "perplexity", "overall", 2.7e9), "OPT-175B", 14.7),
        (("safety-bench", "unsafe_share", "adversarial", None), "OPT-175B", 0.283),
        (("lambada", "acc", "overall", 8e6), "OPT-125M", 37.90),
        (("lambada", "perplexity", "overall", 331e6), "OPT-350M", 16.40),
        (("piqa", "acc", "overall", None), "OPT-66B", 78.78),
        (("arc-challenge", "acc", "overall", 2.7e9), "OPT-2.7B", 26.79),
        (("arc-easy", "acc", "overall", None), "OPT-66B", 71.68),
    ],
)  # fmt: skip
def test_the_nearest_size_is_found(key, model: str, value: float) -> None:  # type: ignore[no-untyped-def]
    row = nearest(*key)
    assert row is not None
    assert (row.model, row.value) == (model, value)


def test_nearest_is_by_the_ratio_of_sizes() -> None:
    between = math.sqrt(125e6 * 350e6)  # the geometric mean, not the arithmetic one
    below, above = (
        nearest("lambada", "acc", "overall", round(between * by)) for by in (0.99, 1.01)
    )
    assert below is not None
    assert above is not None
    assert (below.model, above.model) == ("OPT-125M", "OPT-350M")


def test_what_nobody_published_is_none() -> None:
    assert nearest("crows-pairs", "stereotype_score", "star signs", 1) is None
    assert nearest("no-such-task", "acc", "overall", None) is None
    assert of_task("no-such-task") == []


def test_a_series_has_other_models_too() -> None:
    found = {row.model: row.value for row in series("ethos", "f1 zero-shot", "overall")}
    assert found == {"Davinci": 0.628, "OPT-175B": 0.667}
