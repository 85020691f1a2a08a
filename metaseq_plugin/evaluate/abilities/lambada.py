"""LAMBADA: can the model guess a passage's last word? Accuracy, and the word's perplexity.

    metaseq eval --path runs/quickstart --data eval-data lambada

The figures are those of lm_eval's ``lambada_openai``.
"""

import math
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.evaluate.requests import Answer, Pair, PairAnswer
from metaseq_plugin.evaluate.rows import json_rows
from metaseq_plugin.evaluate.statistics import bootstrap, mean_and_error, perplexity
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record

FILE = DataFile(
    "lambada/lambada_openai_test.jsonl",
    "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    "Hugging Face, EleutherAI/lambada_openai, or github.com/cybertronai/bflm, lambada_test.jsonl",
    "CC BY 4.0",
    'JSONL with "text"',
)


class Lambada:
    """The last word behind the passage (Paperno et al. 2016, arXiv 1606.06031; texts as OpenAI detokenised them).

    Measures:
        perplexity: exp of the mean negative log-likelihood of the last word, whatever its tokens.
        acc: percent of the passages whose last word greedy decoding gives.
    """

    name = "lambada"
    title = "LAMBADA"
    source = "Paperno et al. 2016, arXiv 1606.06031; OpenAI's version, as lm_eval's lambada_openai"
    files = (FILE,)
    needs_scorer = False
    shots: Optional[int] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return {
            "context": "the text up to its last blank",
            "continuation": "a blank and the last word",
            "shots": 0,
        }

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        items = []
        for row in json_rows(data.open(FILE), FILE):
            context, blank, word = row.text("text").rpartition(" ")
            if not context or not word:
                raise row.wrong("text is not of two words, a blank between them")
            items.append(Item(f"line:{row.line}", (Pair(context, blank + word),), {}))
        return items

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        (answer,) = answers
        assert isinstance(answer, PairAnswer)
        return {"log_likelihood": answer.log_likelihood, "is_greedy": answer.is_greedy}

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        likelihoods = [row["log_likelihood"] for row in records]
        error, interval = bootstrap(likelihoods, of_words, options.seed)
        acc, acc_error = mean_and_error([100.0 * row["is_greedy"] for row in records])
        return [
            Measure(
                "perplexity",
                of_words(likelihoods),
                error,
                len(records),
                interval=interval,
                note="of the last word",
            ),
            Measure("acc", acc, acc_error, len(records), note="percent"),
        ]


def of_words(log_likelihoods: Sequence[float]) -> float:
    """The perplexity of a word."""
    return perplexity(-math.fsum(log_likelihoods) / len(log_likelihoods))
