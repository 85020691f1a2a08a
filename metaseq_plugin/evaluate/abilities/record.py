"""ReCoRD's questions and figures, for ``record.yaml``: which entity fills the gap behind a news story?

The question is that of lm_eval's task ``record``, version 2.0: the story, its highlights as a list, and as choices the
query as one more point of the list, with each entity in the place of "@placeholder". The figures are SQuAD's
(Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1): the chosen entity's words against the answer that it is
nearest to.
"""

import re
import string
from collections import Counter
from typing import Any, Mapping, Sequence

GAP = "@placeholder"
HIGHLIGHT = "\n@highlight\n"
NOT_WORDS = re.compile(rf"[{re.escape(string.punctuation)}]")
ARTICLES = ("a", "an", "the")

Document = Mapping[str, Any]


def doc_to_text(document: Document) -> str:
    story, *highlights = document["passage"].strip().split(HIGHLIGHT)
    return f"{story}\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights)


def doc_to_target(document: Document) -> str:
    """The first of the answers, in the alphabet's order."""
    return filled(document, min(document["answers"]))


def doc_to_choice(document: Document) -> list[str]:
    return [filled(document, entity) for entity in entities(document)]


def process_results(document: Document, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Of the likeliest entity."""
    likelihoods = [likelihood for likelihood, _ in results]
    chosen = entities(document)[likelihoods.index(max(likelihoods))]
    return {
        "f1": max(word_f1(chosen, answer) for answer in document["answers"]),
        "em": max(float(words(chosen) == words(answer)) for answer in document["answers"]),
    }


def entities(document: Document) -> list[str]:
    return sorted(set(document["entities"]))


def filled(document: Document, entity: str) -> str:
    return f"  - {document['query'].replace(GAP, entity)}"


def word_f1(one: str, other: str) -> float:
    """2 x common / (words of both); 1 where neither has a word."""
    ours, theirs = words(one), words(other)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """In small letters, without punctuation and articles."""
    return [word for word in NOT_WORDS.sub("", text.lower()).split() if word not in ARTICLES]
