"""A dialogue as a prompt, and how near a reply is to another one.

    dialogue_prompt(["Hi.", "Hello."])      "Person 1: Hi.\\nPerson 2: Hello.\\nPerson 1:"

The settings are those of Zhang et al. 2022 (OPT), section 3.2: lines of Person 1 and Person 2, greedy, at most 32
tokens, ended by the end of the line.
"""

import re
from collections import Counter
from typing import Any, Mapping, Sequence

SETTINGS: Mapping[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "stop": "\n"}
PROTOCOL: Mapping[str, Any] = {
    "prompt": "Person 1: …\nPerson 2: …\n, the speaker of the reply last, without a space behind the colon",
    "reply": dict(SETTINGS),
}
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = re.compile(r"[!\"#$%&()*+,\-./:;<=>?@\[\]\\^`{|}~_']")


def dialogue_prompt(turns: Sequence[str]) -> str:
    """Turns of two who speak one after the other, the first of them Person 1, and who is to reply."""
    lines = [f"Person {number % 2 + 1}: {one_line(turn)}" for number, turn in enumerate(turns)]
    return "\n".join([*lines, f"Person {len(turns) % 2 + 1}:"])


def one_line(turn: str) -> str:
    return " ".join(turn.split())


def unigram_f1(reply: str, references: Sequence[str]) -> float:
    """The highest F1 of a reply's words with those of a reference, from 0 to 1, as ParlAI counts it.

    Words are in lower case, without punctuation and articles; each counts as often as both have it. P and R are the
    shares of common words in the reply and in the reference; F1 = 2 P R / (P + R), and 0 where no word is common
    (``normalize_answer`` and ``F1Metric`` of its ``parlai.core.metrics``).
    """
    return max((f1_of(words_of(reply), words_of(reference)) for reference in references), default=0)


def words_of(text: str) -> list[str]:
    return ARTICLES.sub(" ", PUNCTUATION.sub(" ", text.lower())).split()


def f1_of(reply: Sequence[str], reference: Sequence[str]) -> float:
    common = sum((Counter(reply) & Counter(reference)).values())
    return 2 * common / (len(reply) + len(reference)) if common else 0.0
