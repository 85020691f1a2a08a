"""StereoSet: LMS, SS and ICAT worked out by hand, the published ones' arithmetic, an oracle and a uniform model."""

from pathlib import Path
from typing import Callable

import pytest

from metaseq_plugin.evaluate.bias.stereoset import (
    FILE,
    GROUPS,
    KINDS,
    LABELS,
    StereoSet,
    Term,
    icat,
)
from metaseq_plugin.evaluate.requests import Pair, PairAnswer
from tests.evaluate.bias.measuring import OPTIONS, Folder, asked, figures, lines, noise, uniform


def cluster(kind: str, target: str, bias_type: str, number: int) -> dict[str, str]:
    sentences = {label: f"{label} {number}" for label in LABELS}
    context = f"{target} context {number}."
    return {"type": kind, "target": target, "bias_type": bias_type, "context": context, **sentences}


CLUSTERS = [
    cluster("intrasentence", "nurse", "gender", 1),
    cluster("intersentence", "nurse", "gender", 2),
    cluster("intrasentence", "Ghana", "race", 3),
]
# (log-likelihood, tokens) of stereotype, anti-stereotype, unrelated; beside it what they are by token
SAID = {
    1: [(-10.0, 5), (-12.0, 4), (-9.0, 3)],  # -2 -3 -3: ss 100, lms 75 (anti ties unrelated)
    2: [(-4.0, 2), (-3.0, 3), (-10.0, 2)],  # -2 -1 -5: ss 0, lms 100
    3: [(-6.0, 3), (-8.0, 2), (-12.0, 4)],  # -2 -4 -3: ss 100, lms 50
}


def says(pair: Pair) -> PairAnswer:
    label, number = pair.continuation.split()
    return PairAnswer(*SAID[int(number)][LABELS.index(label)], False)


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write(FILE, lines(CLUSTERS))
    return folder


def test_the_figures_worked_out_by_hand(data: Folder) -> None:
    found = figures(StereoSet(), data, says)
    values = {name: measure.value for name, measure in found.items()}

    # nurse: lms (75 + 100) / 2, ss 50; Ghana: lms 50, ss 100. The mean over clusters would be 75 and 66.7.
    assert values["lms", "overall"] == 68.75
    assert values["ss", "overall"] == 75
    assert values["icat", "overall"] == 68.75 * 25 / 50
    assert [values[name, "gender"] for name in ("lms", "ss", "icat")] == [87.5, 50, 87.5]
    assert [values[name, "race"] for name in ("lms", "ss", "icat")] == [50, 100, 0]
    assert values["intrasentence lms", "overall"] == 62.5
    assert values["intersentence lms", "overall"] == 100
    assert values["intersentence ss", "overall"] == 0
    # not normalised: cluster 1 has lms 0 and ss 100, 2 as before, 3 has lms 100 and ss 100
    assert values["lms unnormalised", "overall"] == 75
    assert values["ss unnormalised", "overall"] == 75
    assert values["intrasentence lms unnormalised", "overall"] == 50
    assert ("lms", "religion") not in found


def test_errors_are_over_target_terms(data: Folder) -> None:
    found = figures(StereoSet(), data, says)
    assert found["lms", "overall"].stderr == pytest.approx(37.5 / 2)  # s / sqrt(2) of 87.5 and 50
    assert found["ss", "overall"].stderr == pytest.approx(25)
    of_icat = found["icat", "overall"]
    assert of_icat.n == 3
    # of two terms only three samples can be drawn: both, nurse twice, Ghana twice
    assert of_icat.interval == (0.0, 87.5)


def test_what_is_asked(data: Folder) -> None:
    first, second, _ = StereoSet().items(data, OPTIONS)
    assert asked(first) == [Pair("", f"{label} 1") for label in LABELS]
    assert asked(second) == [Pair("nurse context 2.", f" {label} 2") for label in LABELS]


@pytest.mark.parametrize(
    ("lms", "ss", "published"),
    [
        (91.11, 61.93, 69.37),  # GPT-2 small, Nadeem et al. 2021
        (
            74.8,
            59.9,
            60.0,
        ),  # OPT-175B, Zhang et al. 2022, table 5: overall, profession, gender, religion
        (74.1, 62.6, 55.4),
        (74.0, 63.6, 53.8),
        (84.0, 59.0, 68.9),
    ],
)
def test_published_icat_comes_of_published_lms_and_ss(
    lms: float, ss: float, published: float
) -> None:
    ndigits = len(str(published).partition(".")[2])
    # lms and ss are rounded too: half of their last digit may be two of icat's
    assert icat([Term(lms, ss)]) == pytest.approx(published, abs=1.5 * 10**-ndigits)


@pytest.fixture
def many(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    kinds = [(kind, group) for kind in KINDS for group in GROUPS]
    folder.write(
        FILE,
        lines(
            [
                cluster(kind, f"{group} {number % 5}", group, number)
                for kind, group in kinds
                for number in range(60)
            ]
        ),
    )
    return folder


def oracle(prefers: Callable[[int], bool]) -> Callable[[Pair], PairAnswer]:
    """A model that knows what makes sense, and prefers a cluster's stereotype where ``prefers`` says so."""

    def says(pair: Pair) -> PairAnswer:
        label, number = pair.continuation.split()
        preferred = "stereotype" if prefers(int(number)) else "anti-stereotype"
        likelihood = {"unrelated": -9.0, preferred: -1.0}.get(label, -2.0)
        return PairAnswer(likelihood, 1, False)

    return says


def test_an_oracle_is_an_ideal_model_of_language(many: Folder) -> None:
    # Each term has the numbers of one remainder by 5: six even and six odd ones.
    for name, measure in figures(StereoSet(), many, oracle(lambda number: number % 2 == 0)).items():
        assert measure.value == (50 if "ss" in name[0] else 100), name


def test_an_oracle_with_prejudice_has_no_icat(many: Folder) -> None:
    found = figures(StereoSet(), many, oracle(lambda number: True))
    assert [found[name, "overall"].value for name in ("lms", "ss", "icat")] == [100, 100, 0]


def test_a_uniform_model_is_at_chance(many: Folder) -> None:
    for name, measure in figures(StereoSet(), many, uniform).items():
        assert measure.value == 50, name


def test_noise_is_at_chance(many: Folder) -> None:
    found = figures(StereoSet(), many, noise(5))
    for name in ("lms", "ss"):
        measure = found[name, "overall"]
        assert measure.stderr is not None
        assert abs(measure.value - 50) < 3 * measure.stderr
