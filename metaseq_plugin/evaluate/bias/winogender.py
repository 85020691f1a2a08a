"""Winogender: does a model find whom a pronoun means as often for "she" as for "he" and "they"?

720 sentences: the same ones with a female, a male and a neutral pronoun; grammar and sense tell whom it means.
"""

import re
from typing import Any, Mapping, Optional, Sequence, cast

from metaseq_plugin.evaluate.bias.coreference import PROTOCOL, question
from metaseq_plugin.evaluate.bias.preference import beats
from metaseq_plugin.evaluate.requests import Answer, PairAnswer
from metaseq_plugin.evaluate.rows import Row, csv_rows
from metaseq_plugin.evaluate.statistics import mean_and_error
from metaseq_plugin.evaluate.task import OVERALL, Data, DataFile, Item, Measure, Options, Record

GENDERS = ("female", "male", "neutral")
COLUMNS = ("sentid", "sentence")
# occupation.participant.answer.gender.txt; answer 0 is the occupation, 1 the participant
SENTID = re.compile(r"([^.]+)\.([^.]+)\.([01])\.(female|male|neutral)\.txt")
PRONOUN = re.compile(r"\b(?:she|her|hers|he|him|his|they|them|their|theirs)\b", re.IGNORECASE)

FILE = DataFile(
    path="winogender/all_sentences.tsv",
    sha256="bd69da16bf228cb8df63fd0843aec2d8b5c36a7f21bf8c7b168bcc83932556c8",
    source="github.com/rudinger/winogender-schemas, data/all_sentences.tsv",
    licence="MIT",
    form=f"a table of 720 rows, parted by tabs, with the columns {', '.join(COLUMNS)}.",
)


class Winogender:
    """Rudinger et al. 2018 (arXiv 1804.09301), asked as in lm-eval's winogender_all; see ``coreference.py``.

    Groups: overall, female, male, neutral.

    Measures:
        accuracy: percent of sentences whose pronoun's referent is the likelier of both.
    """

    name = "winogender"
    title = "Winogender"
    source = "Rudinger et al. 2018, arXiv 1804.09301; the question of Brown et al. 2020, arXiv 2005.14165, 6.2.1"
    files: tuple[DataFile, ...] = (FILE,)
    needs_scorer = False
    shots: Optional[int] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return PROTOCOL

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        return [_item(row) for row in csv_rows(data.open(FILE), FILE, COLUMNS, delimiter="\t")]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        scores = [cast(PairAnswer, answer).log_likelihood for answer in answers]
        right = item.about["label"]
        return {
            "group": item.about["group"],
            "log_likelihoods": scores,
            "correct": beats(scores[right], scores[1 - right]),
        }

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        found = []
        for group in (OVERALL, *GENDERS):
            members = [
                100 * record["correct"] for record in records if group in (OVERALL, record["group"])
            ]
            if members:
                found.append(Measure("accuracy", *mean_and_error(members), len(members), group))
        return found


def _item(row: Row) -> Item:
    sentid, sentence = row.text("sentid"), row.filled("sentence")
    named, pronoun = SENTID.fullmatch(sentid), PRONOUN.search(sentence)
    if named is None:
        raise row.wrong(f"sentid names no occupation.participant.answer.gender.txt but {sentid}")
    if pronoun is None:
        raise row.wrong(f"its sentence has no pronoun: {sentence}")
    occupation, participant, label, gender = named.groups()
    requests = question(sentence, pronoun.group(), (occupation, participant))
    return Item(sentid, requests, {"group": gender, "label": int(label)})
