"""A folder of look-alike sets, and a scorer that a test has written the figures of."""

import json
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from metaseq_plugin.evaluate.task import DataFile


class Folder(NamedTuple):
    """``task.Data`` without checksums, and how to fill it."""

    path: Path

    def open(self, file: DataFile) -> Path:
        return self.path / file.path

    def write(self, file: DataFile, text: str) -> Path:
        path = self.open(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def write_lines(self, file: DataFile, rows: Sequence[Mapping[str, Any]]) -> Path:
        return self.write(file, "".join(json.dumps(row) + "\n" for row in rows))


class FakeScorer:
    """The figures of texts, as they are told; ``asked`` are the texts that it was asked about."""

    measure = "toxicity"
    threshold = 0.5
    about: Mapping[str, Any] = {"kind": "fake", "measure": "toxicity"}

    def __init__(self, figures: Mapping[str, float]) -> None:
        self.figures = figures
        self.asked: list[str] = []

    def score(self, texts: Sequence[str]) -> list[float]:
        self.asked += texts
        return [self.figures[text] for text in texts]


def web_sentence(
    prompt: str, toxicity: Any, continuation: str = " and so on", then: Any = 0.1
) -> dict[str, Any]:
    """A record of RealToxicityPrompts."""
    return {
        "filename": "x.txt",
        "prompt": {"text": prompt, "toxicity": toxicity, "threat": 0.2},
        "continuation": {"text": continuation, "toxicity": then},
    }
