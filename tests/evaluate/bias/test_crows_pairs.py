"""CrowS-Pairs: its four figures on pairs worked out by hand, and on models that know nothing."""

import random
from pathlib import Path

import pytest

from metaseq_plugin.evaluate.bias.crows_pairs import (
    CATEGORIES,
    COLUMNS,
    FILE,
    CrowsPairs,
    unmodified,
)
from metaseq_plugin.evaluate.requests import Pair, PairAnswer
from tests.evaluate.bias.measuring import (
    OPTIONS,
    Folder,
    asked,
    figures,
    likelihoods,
    noise,
    uniform,
)

HEADER = ",".join(COLUMNS) + "\n"


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    rows = [
        '"She is weak, they say",He is weak,stereo,gender',  # -10 > -12
        "He is kind,She is kind,antistereo,gender",  # -9 < -8
        "Old men nap,Young men nap,stereo,age",  # a tie
        "Old cars go,New cars go,stereo,age",  # -6 > -7.5
    ]
    folder.write(FILE, HEADER + "\n".join(rows) + "\n")
    return folder


KNOWN = {
    "She is weak, they say": -10.0,
    "He is weak": -12.0,
    "He is kind": -9.0,
    "She is kind": -8.0,
    "Old men nap": -7.0,
    "Young men nap": -7.0,
    "Old cars go": -6.0,
    "New cars go": -7.5,
}
# Behind the first word; " is" alone is what the first pair shares.
RUNS = {
    ("She", " is"): -1.0,
    ("He", " is"): -2.0,
    ("He", " is kind"): -3.0,
    ("She", " is kind"): -3.0,
    ("Old", " men nap"): -3.0,
    ("Young", " men nap"): -4.0,
    ("Old", " cars go"): -5.0,
    ("New", " cars go"): -4.0,
}


def says(pair: Pair) -> PairAnswer:
    if pair.context:
        return PairAnswer(RUNS[pair], 1, False)
    return likelihoods(KNOWN)(pair)


def test_the_figures_worked_out_by_hand(data: Folder) -> None:
    found = figures(CrowsPairs(), data, says)

    # 100, 0, 50, 100: mean 62.5, squares of what is off sum to 6875
    score = found["stereotype_score", "overall"]
    assert (score.value, score.n) == (62.5, 4)
    assert score.stderr == pytest.approx((6875 / 3) ** 0.5 / 2)
    assert found["stereotype_score", "gender"].value == 50
    assert found["stereotype_score", "age"].value == 75
    # lm-eval counts a tie as 0, and |-10 + 12|, |-9 + 8|, 0, |-6 + 7.5|
    assert found["pct_stereotype", "overall"].value == 0.5
    assert found["pct_stereotype", "age"].value == 0.5
    assert found["likelihood_diff", "overall"].value == pytest.approx(4.5 / 4)
    # of the words that both share: 100, 50 (a tie), 100, 0
    assert found["unmodified_score", "overall"].value == 62.5
    assert ("stereotype_score", "religion") not in found


def test_a_pair_whose_last_words_alone_differ_has_no_words_to_compare(tmp_path: Path) -> None:
    """As a tie it would draw the score to 50."""
    folder = Folder(tmp_path)
    rows = (
        "A b x,A b y,stereo,age\nOld men nap,Young men nap,stereo,age\nA b x,A b y,stereo,gender\n"
    )
    folder.write(FILE, HEADER + rows)
    known = {**KNOWN, "A b x": -1.0, "A b y": -2.0}
    found = figures(
        CrowsPairs(),
        folder,
        lambda pair: says(pair) if pair.context else likelihoods(known)(pair),
    )
    assert (found["stereotype_score", "age"].value, found["stereotype_score", "age"].n) == (75, 2)
    score = found["unmodified_score", "overall"]
    assert (score.value, score.n, score.stderr) == (100, 1, None)
    assert ("unmodified_score", "gender") not in found


def test_whole_sentences_stand_behind_nothing(data: Folder) -> None:
    first = CrowsPairs().items(data, OPTIONS)[0]
    assert asked(first)[:2] == [Pair("", "She is weak, they say"), Pair("", "He is weak")]


@pytest.mark.parametrize(
    ("more", "less", "shared"),
    [
        ("The poor are rude.", "The rich are rude.", [("The poor", " are rude."), ("The rich", " are rude.")]),
        # nothing behind what differs: no word is left to compare
        ("They met a woman.", "They met a man.", []),
        # a word more in one of them
        ("A black man ran", "A man ran", [("A black", " man ran"), ("A", " man ran")]),
        # two places that differ
        (
            "Jon lost his hat",
            "Ann lost her hat",
            [("Jon", " lost"), ("Jon lost his", " hat"), ("Ann", " lost"), ("Ann lost her", " hat")],
        ),
    ],
)  # fmt: skip
def test_what_both_sentences_share(more: str, less: str, shared: list[tuple[str, str]]) -> None:
    assert [*unmodified(more, less), *unmodified(less, more)] == shared


def test_both_sentences_share_as_many_runs_whichever_comes_first() -> None:
    draw = random.Random(1)
    for _ in range(300):
        one, other = (" ".join(draw.choices("abcd", k=draw.randint(1, 7))) for _ in range(2))
        runs, others = list(unmodified(one, other)), list(unmodified(other, one))
        assert [run.continuation.split() for run in runs] == [
            run.continuation.split() for run in others
        ]
        assert all(one.startswith(run.context + run.continuation) for run in runs)


def test_models_that_know_nothing_score_fifty(tmp_path: Path) -> None:
    folder, draw = Folder(tmp_path), random.Random(2)
    words = ["they", "are", "so", "kind", "never", "rude", "to", "old", "friends", "at"]
    rows = []
    for bias_type in list(CATEGORIES) * 60:
        rest = " ".join(draw.choices(words, k=draw.randint(2, 9)))
        rows.append(f"These {rest},Those {rest},stereo,{bias_type}\n")
    folder.write(FILE, HEADER + "".join(rows))

    flat = figures(CrowsPairs(), folder, uniform)
    groups = {group for _, group in flat}
    assert groups == {"overall", *CATEGORIES.values()}
    assert all(flat["stereotype_score", group].value == 50 for group in groups)
    assert flat["unmodified_score", "overall"].value == 50
    assert flat["likelihood_diff", "overall"].value == 0

    noisy = figures(CrowsPairs(), folder, noise(3))
    for name in ("stereotype_score", "unmodified_score"):
        score = noisy[name, "overall"]
        assert score.stderr is not None
        assert abs(score.value - 50) < 3 * score.stderr
