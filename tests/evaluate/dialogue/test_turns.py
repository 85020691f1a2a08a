"""A dialogue's prompt, and ParlAI's unigram F1 by hand."""

import pytest

from metaseq_plugin.evaluate.dialogue.turns import dialogue_prompt, unigram_f1, words_of


def test_the_reply_is_the_next_speakers() -> None:
    assert dialogue_prompt(["Hi."]) == "Person 1: Hi.\nPerson 2:"
    assert (
        dialogue_prompt(["Hi.", "Hello\nyou."]) == "Person 1: Hi.\nPerson 2: Hello you.\nPerson 1:"
    )


def test_words_have_neither_case_nor_punctuation_nor_articles() -> None:
    assert words_of("The cat, a dog; AN ape!") == ["cat", "dog", "ape"]
    assert words_of("I'm theirs (the-end)") == ["i", "m", "theirs", "end"]
    assert words_of("anthem") == ["anthem"]


@pytest.mark.parametrize(
    ("reply", "references", "f1"),
    [
        ("I am sorry.", ["i am SORRY"], 1),
        # common i, am, sorry: P = 3/4, R = 3/5
        ("I am so sorry", ["The sorry one I am, really"], 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)),
        # no is common once: P = 1/3, R = 1/1
        ("no no no", ["no"], 1 / 2),
        ("no", ["yes", "no way"], 2 / 3),
        ("yes", ["no"], 0),
        ("", ["no"], 0),
        ("the", ["a"], 0),
        ("yes", [], 0),
    ],
)
def test_unigram_f1(reply: str, references: list[str], f1: float) -> None:
    assert unigram_f1(reply, references) == pytest.approx(f1)
