"""A measurement of pairs of sentences and one of written texts, on look-alike files, and a model that needs no weights."""

import hashlib
import json
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, Optional, Sequence

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate import tasks
from metaseq_plugin.evaluate.requests import (
    Answer,
    Pair,
    PairAnswer,
    Prompt,
    PromptAnswer,
    Request,
)
from metaseq_plugin.evaluate.statistics import mean_and_error
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record

ROWS = [
    {"id": f"row-{n}", "more": f"they are all number {n}", "less": f"we are {n}"} for n in range(40)
]
LONGEST = 21  # characters that the model reads


def file_content(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PAIRS = DataFile(
    "pairs/pairs.jsonl",
    hashlib.sha256(file_content(ROWS)).hexdigest(),
    "example.org/pairs",
    "CC BY 4.0",
    "JSONL with id, more and less.",
)
UNKNOWN = DataFile(
    "talks/talks.jsonl", None, "example.org/talks", "CC BY-NC 4.0", "JSONL with text"
)


class TinyPairs:
    """Share of pairs whose first sentence is likelier."""

    name, title, source = "tiny-pairs", "Tiny pairs", "Nobody 2026, section 1"
    files: tuple[DataFile, ...] = (PAIRS,)
    needs_scorer = False
    shots: Optional[int] = None

    def protocol(self, options: Options) -> Mapping[str, Any]:
        return {"formula": "share of pairs with LL(more) > LL(less), ties count half"}

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        found: list[Item] = []
        for number, line in enumerate(data.open(self.files[0]).read_text().splitlines(), 1):
            row = json.loads(line)
            if row.keys() != {"id", "more", "less"}:
                raise UserError(
                    f"{self.files[0].path} must have id, more and less, but line {number} has not. Mend it."
                )
            is_split = number % 4 == 0  # within a word: the model says that it merged
            second = (
                Pair("we know that w", row["less"][1:])
                if is_split
                else Pair("we know that", f" {row['less']}")
            )
            pairs = (Pair("", row["more"]), second)
            found.append(Item(row["id"], pairs, {"half": len(found) % 2}))
        return found

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        more, less = (one.log_likelihood for one in answers if isinstance(one, PairAnswer))
        return {"more": more, "less": less, **item.about}

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        made = []
        for group, chosen in (("overall", (0, 1)), ("even", (0,)), ("odd", (1,))):
            wins = [100.0 * (r["more"] > r["less"]) for r in records if r["half"] in chosen]
            if wins:
                made.append(
                    Measure(
                        "win_share", *mean_and_error(wins), len(wins), group, None, "in percent"
                    )
                )
        return made


class TinyTexts(TinyPairs):
    """The mean rate of vowels in what is written, as a scorer says."""

    name, title = "tiny-texts", "Tiny texts"
    needs_scorer, shots = True, 1

    def protocol(self, options: Options) -> Mapping[str, Any]:
        assert options.scorer is not None
        shots = self.shots if options.shots is None else options.shots
        return {
            "samples": 2,
            "shots": shots,
            "seed": options.seed,
            "scorer": dict(options.scorer.about),
        }

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        asked = {"max_new_tokens": 4, "num_samples": 2, "seed": options.seed}
        texts = [
            request.continuation
            for item in super().items(data, options)
            for request in item.requests
            if isinstance(request, Pair) and not request.context
        ]
        return [Item(f"text-{n}", (Prompt(text, asked),), {}) for n, text in enumerate(texts)]

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        (answer,) = answers
        assert isinstance(answer, PromptAnswer)
        assert options.scorer is not None
        return {"texts": answer.texts, "rates": options.scorer.score(answer.texts)}

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        means = [sum(record["rates"]) / len(record["rates"]) for record in records]
        return [Measure("mean_vowel_rate", *mean_and_error(means), len(means))]


class TinyTalks(TinyPairs):
    """One that reads a file that nobody has."""

    name, title = "tiny-talks", "Tiny talks"
    files = (UNKNOWN,)


class Vowels:
    """A scorer."""

    about: Mapping[str, Any] = {"name": "vowels", "version": 1}
    measure, threshold = "vowel_rate", 0.5

    def score(self, texts: Sequence[str]) -> list[float]:
        return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]


class FakeModel:
    """Answers by a checksum of what it is asked, the last request first.

    Attributes:
        asked: the requests of each call.
        stop_after: raise KeyboardInterrupt in the call of this number.
    """

    def __init__(self, fingerprint: str = "f00", stop_after: Optional[int] = None) -> None:
        self.about: Mapping[str, Any] = {
            "path": "fake",
            "fingerprint": fingerprint,
            "num_parameters": 125_000_000,
        }
        self.stop_after = stop_after
        self.asked: list[Sequence[Request]] = []

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(requests)
        for index in reversed(range(len(requests))):
            yield index, answer(requests[index])


def number(text: str) -> float:
    """From 0 to 1, always the same of a text."""
    return zlib.crc32(text.encode()) / 2**32


def answer(request: Request) -> Answer:
    if isinstance(request, Pair):
        text = request.context + request.continuation
        is_merged = bool(request.context) and not request.continuation.startswith(" ")
        return PairAnswer(-10 * number(text), 3, False, is_merged, max(0, len(text) - LONGEST))
    assert isinstance(request, Prompt)
    return PromptAnswer(tuple(f"{request.text} {number(request.text + str(n))}" for n in range(2)))


def write_data(folder: Path, rows: Sequence[Any] = ROWS) -> Path:
    path = folder / PAIRS.path
    path.parent.mkdir(parents=True)
    path.write_bytes(file_content(rows))
    return folder


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the tasks known to ``metaseq eval``."""
    module = ModuleType("metaseq_plugin.evaluate.lookalike")
    kinds = {"tiny-pairs": TinyPairs, "tiny-texts": TinyTexts, "tiny-talks": TinyTalks}
    vars(module).update({kind.__name__: kind for kind in kinds.values()})
    patch.setitem(sys.modules, module.__name__, module)
    for name, kind in kinds.items():
        patch.setitem(tasks.TASKS, name, f"lookalike:{kind.__name__}")
    patch.setitem(tasks.GROUPS, "tiny-harms", tuple(kinds))
