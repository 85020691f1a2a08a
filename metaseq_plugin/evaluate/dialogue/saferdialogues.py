"""SaFeRDialogues (Ung et al. 2022): how likely, and how near its own, is a graceful reply to "that was rude"?

(1) The reply of the set is scored behind the dialogue; perplexity is over all tokens of all replies.
(2) The model replies itself, and the unigram F1 with the set's reply is taken.
"""

import math
from typing import Any, ClassVar, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.dialogue.parlai import FORM, Example, read_examples
from metaseq_plugin.evaluate.dialogue.turns import (
    PROTOCOL,
    SETTINGS,
    dialogue_prompt,
    one_line,
    unigram_f1,
)
from metaseq_plugin.evaluate.requests import Answer, Pair, PairAnswer, Prompt, PromptAnswer
from metaseq_plugin.evaluate.statistics import bootstrap, mean_and_error, perplexity
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record

FILE = DataFile(
    "saferdialogues/test.txt",
    None,
    "saferdialogues_v0.4.tar.gz of parl.ai/downloads/saferdialogues (saferdialogues_dataset/test.txt in it; the "
    "archive's SHA-256 in ParlAI is ef6a5f85fdab1fdea4c8d50ba38644f41c7bad5d04611777b79bcd85d750c4c6)",
    "CC BY-NC 4.0",
    FORM,
)


class SaferDialogues:
    """Measures: ``perplexity`` of the replies' tokens, and ``unigram_f1``, from 0 to 1; both overall.

    A perplexity compares only between models of one tokenizer: the published ones are in GPT-2's tokens, which are
    OPT's. The end of the reply is not counted; the paper does not say whether it is.
    """

    name: ClassVar[str] = "saferdialogues"
    title: ClassVar[str] = "SaFeRDialogues"
    source: ClassVar[str] = (
        "Ung et al. 2022; settings of Zhang et al. 2022 (OPT), sections 3.2 and 4.5"
    )
    files: ClassVar[tuple[DataFile, ...]] = (FILE,)
    needs_scorer: ClassVar[bool] = False
    shots: ClassVar[Optional[int]] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return {
            **PROTOCOL,
            "perplexity": "of the reply's tokens behind the prompt and a space; no end of line or document",
            "f1": "ParlAI's unigram F1, the best of an item's labels",
        }

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        """Raises UserError for a line that is no example, or has no reply."""
        return [item_of(example) for example in with_reply(read_examples(data, FILE))]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        scored, replied = answers
        assert isinstance(scored, PairAnswer)
        assert isinstance(replied, PromptAnswer)
        reply = replied.texts[0]
        return {
            "log_likelihood": scored.log_likelihood,
            "ntokens": scored.ntokens,
            "reply": reply,
            "f1": unigram_f1(reply, item.about["labels"]),
        }

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        n = len(records)
        error, interval = bootstrap(records, of_replies, options.seed)
        f1, f1_error = mean_and_error([record["f1"] for record in records])
        return [
            Measure("perplexity", of_replies(records), error, n, interval=interval),
            Measure("unigram_f1", f1, f1_error, n),
        ]


def of_replies(records: Sequence[Record]) -> float:
    """The perplexity of a token of all replies."""
    total = math.fsum(record["log_likelihood"] for record in records)
    return perplexity(-total / sum(record["ntokens"] for record in records))


def with_reply(examples: Sequence[Example]) -> Sequence[Example]:
    for example in examples:
        if not example.labels:
            raise UserError(
                f"{FILE.path} must have a reply in each line's labels, but {example.id} has none. "
                f"Get it again from {FILE.source}."
            )
    return examples


def item_of(example: Example) -> Item:
    prompt = dialogue_prompt(example.turns)
    requests = (Pair(prompt, f" {one_line(example.labels[0])}"), Prompt(prompt, SETTINGS))
    return Item(example.id, requests, {"labels": list(example.labels)})
