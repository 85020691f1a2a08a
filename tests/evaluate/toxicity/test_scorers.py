"""The list of words, alt-profanity-check, several scorers at once, and how ``--scorer`` is read."""

import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any, Sequence

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.scorers.checking import checked
from metaseq_plugin.evaluate.toxicity.scorers.lexicon import Lexicon
from metaseq_plugin.evaluate.toxicity.scorers.reading import read_scorer
from metaseq_plugin.evaluate.toxicity.scorers.several import Several
from tests.evaluate.toxicity.fakes import FakeScorer


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("ass\n\nbloody fool\ns&m\n🖕\nass\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("What an ASS!", 1),
        ("the class, assess, bass", 0),
        ("you bloody fool", 1),
        ("bloody, fool", 0),
        ("s&m.", 1),
        ("no 🖕", 1),
        ("under_ass_score", 0),  # one word of a program
        ("", 0),
    ],
)
def test_the_lexicon_finds_whole_words(words: Path, text: str, figure: float) -> None:
    assert Lexicon(str(words)).score([text]) == [figure]


def test_a_lexicons_figure_is_not_called_toxicity(words: Path) -> None:
    scorer = read_scorer(f"lexicon:{words}")
    assert scorer.measure == scorer.about["measure"] == "lexicon_rate"
    assert (scorer.about["nwords"], scorer.about["name"]) == (4, "words.txt")
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read"), (b"\n \n", "has none"), (b"\xff\xfe\x00", "is no text in UTF-8")],
)
def test_a_file_that_is_no_list_of_words(tmp_path: Path, content: Any, what: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"`--scorer` lexicon:FILE must name a list of words.*{what}"
    ):
        read_scorer(f"lexicon:{path}")


@pytest.mark.parametrize(
    "text", ["", "toxic", "lexicon", "lexicon:", "profanity:x", "Perspective:key"]
)
def test_what_is_no_scorer(text: str) -> None:
    with pytest.raises(UserError, match="`--scorer` must be lexicon:FILE, classifier:FOLDER,"):
        read_scorer(text)


def fake_profanity(monkeypatch: pytest.MonkeyPatch, figures: Sequence[float]) -> None:
    module = types.ModuleType("profanity_check")
    vars(module)["predict_prob"] = lambda texts: figures[: len(texts)]
    monkeypatch.setitem(sys.modules, "profanity_check", module)
    monkeypatch.setattr(metadata, "version", lambda name: "1.9.1")


def test_profanity_is_a_probability_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_profanity(monkeypatch, [0.75, 0.25])
    scorer = read_scorer("profanity")
    assert scorer.score(["a", "b"]) == [0.75, 0.25]
    assert scorer.score([]) == []
    assert scorer.measure == "profanity"
    assert scorer.about["versions"]["alt-profanity-check"] == "1.9.1"


@pytest.mark.parametrize(("figures", "what"), [([float("nan")], "gave nan"), ([1.5], "gave 1.5"), ([], "gave 0 figures for 1 texts")])  # fmt: skip
def test_profanity_that_gives_no_probability(
    monkeypatch: pytest.MonkeyPatch, figures: list[float], what: str
) -> None:
    fake_profanity(monkeypatch, figures)
    with pytest.raises(
        UserError, match=f"must give one number from 0 to 1 .* alt-profanity-check {what}"
    ):
        read_scorer("profanity").score(["a"])


def test_without_the_extra_profanity_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(UserError, match=r"pip install 'metaseq-plugin\[profanity\]'"):
        read_scorer("profanity")


def test_several_scorers_say_which_share_of_them_flags(words: Path) -> None:
    two = Several([FakeScorer({"a": 0.5, "b": 0.5, "c": 0.49}), FakeScorer({"a": 0.9, "b": 0.1, "c": 0.2})])  # fmt: skip
    assert two.score(["a", "b", "c"]) == [1, 0.5, 0]
    assert [figure >= two.threshold for figure in two.score(["a", "b", "c"])] == [True, True, False]
    assert (two.measure, two.ncut) == ("flagged_share", 0)
    three = Several([FakeScorer({"a": float(number == 0)}) for number in range(3)])
    assert three.score(["a"])[0] >= three.threshold


def test_several_are_read_at_commas_before_another(words: Path, tmp_path: Path) -> None:
    other = tmp_path / "one, two.txt"
    other.write_text("fool\n")
    scorer = read_scorer(f"lexicon:{words},lexicon:{other}")
    assert scorer.score(["a fool", "ass", "a bloody fool"]) == [0.5, 0.5, 1]
    assert [one["name"] for one in scorer.about["scorers"]] == ["words.txt", "one, two.txt"]


def test_figures_are_checked() -> None:
    assert checked([0, 1, 0.5], 3, "x") == [0, 1, 0.5]
    for figures in ([-0.1], [float("inf")], [], [0.1, 0.2]):
        with pytest.raises(UserError):
            checked(figures, 1, "x")
