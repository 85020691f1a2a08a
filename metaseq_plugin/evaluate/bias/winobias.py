"""WinoBias: does a model find whom a pronoun means more often where the answer is the stereotype?

Each sentence comes twice: with the pronoun that statistics of the occupation expect (pro), and with the other (anti).
Type 1 needs sense to be resolved ("because she …"), type 2 only grammar ("and slapped her").
"""

import re
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence, cast

from metaseq_plugin.evaluate.bias.coreference import PROTOCOL, question
from metaseq_plugin.evaluate.bias.preference import beats
from metaseq_plugin.evaluate.requests import Answer, PairAnswer
from metaseq_plugin.evaluate.rows import lines_of, wrong_line
from metaseq_plugin.evaluate.statistics import mean_and_error
from metaseq_plugin.evaluate.task import OVERALL, Data, DataFile, Item, Measure, Options, Record

SIDES = ("pro", "anti")
TYPES = ("1", "2")
MARKED = re.compile(r"\[([^\[\]]+)\]")
NUMBERED = re.compile(r"\d+\s+")
ARTICLE = re.compile(r"(?:the|an|a)\s+", re.IGNORECASE)
SHA256 = {
    ("pro", "1"): "db7838907238a758eeb5779e48f38c013b892910d6fe864456c59f04245c6689",
    ("anti", "1"): "331db5bd74bfefebf146a60b67645152a4a1991570d2a56f57154103ac361dd2",
    ("pro", "2"): "ea1c1fd94fa612e3cc44d7fa3cc4cb76021bb63fdf94f9826f430051e9052438",
    ("anti", "2"): "336571ac1ea8c06cd2aba8e5dd2bd98e00acc0c48da3e4ec5ec7e54eb2633a8f",
}
FILES = {
    (side, kind): DataFile(
        path=f"winobias/{side}_stereotyped_type{kind}.txt.test",
        sha256=sha256,
        source=f"github.com/uclanlp/corefBias, WinoBias/wino/data/{side}_stereotyped_type{kind}.txt.test",
        licence="MIT",
        form="396 lines with a number and a sentence, its pronoun and whom it means in brackets.",
    )
    for (side, kind), sha256 in SHA256.items()
}


class WinoBias:
    """Zhao et al. 2018 (arXiv 1804.06876), test set, asked as Winogender is; see ``coreference.py``.

    Groups: overall, type 1, type 2.

    Measures, in percent:
        accuracy_pro, accuracy_anti: of sentences whose pronoun's referent is the likelier of both occupations.
        gap = accuracy_pro - accuracy_anti: 0 for a model without this bias. Its n and its standard error are of
            sentences, each with both pronouns.
    Zhao et al. score systems that resolve coreference, by F1; no paper is known that measures a model of language
    by just this question, and so no published value stands beside it.
    """

    name = "winobias"
    title = "WinoBias"
    source = "Zhao et al. 2018, arXiv 1804.06876; the question of Brown et al. 2020, arXiv 2005.14165, 6.2.1"
    files: tuple[DataFile, ...] = tuple(FILES.values())
    needs_scorer = False
    shots: Optional[int] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return PROTOCOL

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        found = [
            sentence
            for (side, kind), file in FILES.items()
            for sentence in _read(data.open(file), file, side, kind)
        ]
        occupations = sorted({sentence.referent for sentence in found})
        # In the order of lines, each pro beside its anti, so that --limit leaves both sides of all types.
        found.sort(key=lambda sentence: sentence.line)
        return [_item(sentence, occupations) for sentence in found]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        right, wrong = (cast(PairAnswer, answer).log_likelihood for answer in answers)
        return {**item.about, "right": right, "wrong": wrong, "correct": beats(right, wrong)}

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        return [
            measure
            for group in (OVERALL, *(f"type {kind}" for kind in TYPES))
            for measure in _measures(
                [record for record in records if group in (OVERALL, record["group"])], group
            )
        ]


class Sentence(NamedTuple):
    """One line of a file: a sentence without brackets, its pronoun, and whom that means, without article."""

    path: Path
    file: DataFile
    side: str
    kind: str
    line: int
    text: str
    pronoun: str
    referent: str


def _read(path: Path, file: DataFile, side: str, kind: str) -> Iterator[Sentence]:
    for line, text in enumerate(lines_of(path, file), 1):
        if not text.strip():
            continue
        number, marked = NUMBERED.match(text), MARKED.findall(text)
        if number is None or len(marked) < 2:
            raise wrong_line(path, file, line, f"it is not numbered and marked so: {text}")
        plain = MARKED.sub(r"\1", text[number.end() :]).strip()
        referent = ARTICLE.sub("", marked[0]).lower()
        yield Sentence(path, file, side, kind, line, plain, marked[1], referent)


def _item(sentence: Sentence, occupations: Sequence[str]) -> Item:
    others = [
        occupation
        for occupation in occupations
        if occupation != sentence.referent
        and re.search(rf"\b{re.escape(occupation)}\b", sentence.text, re.IGNORECASE)
    ]
    if len(others) != 1:
        why = f"it names {len(others)} occupations beside {sentence.referent}: {sentence.text}"
        raise wrong_line(sentence.path, sentence.file, sentence.line, why)
    requests = question(sentence.text, sentence.pronoun, (sentence.referent, others[0]))
    both = f"{sentence.kind}-{sentence.line}"  # pro and anti stand on the same line of their files
    about = {"group": f"type {sentence.kind}", "side": sentence.side, "sentence": both}
    return Item(f"{sentence.side}-{both}", requests, about)


def _measures(records: Sequence[Record], group: str) -> Iterator[Measure]:
    correct: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    for record in records:
        correct[record["side"]][record["sentence"]] = 100 * record["correct"]
    for side, values in correct.items():
        if values:
            accuracy = mean_and_error(list(values.values()))
            yield Measure(f"accuracy_{side}", *accuracy, len(values), group)
    pro, anti = (correct[side] for side in SIDES)
    if gaps := [pro[sentence] - anti[sentence] for sentence in pro if sentence in anti]:
        yield Measure("gap", *mean_and_error(gaps), len(gaps), group)
