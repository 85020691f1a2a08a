"""A task on files of a test's own, answered by a function: what it asks, and the figures that come of it."""

import json
import random
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from metaseq_plugin.evaluate.requests import Pair, PairAnswer
from metaseq_plugin.evaluate.task import Data, DataFile, Item, Measure, Options, Record, Task

Says = Callable[[Pair], PairAnswer]
Figures = Mapping[tuple[str, str], Measure]
OPTIONS = Options()


class Folder:
    """``task.Data`` of a folder without checksums; files are written where their ``DataFile`` says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, file: DataFile) -> Path:
        return self.folder / file.path

    def write(self, file: DataFile, content: str) -> Path:
        path = self.open(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
        return path


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def asked(item: Item) -> list[Pair]:
    pairs = [request for request in item.requests if isinstance(request, Pair)]
    assert len(pairs) == len(item.requests)
    return pairs


def records(task: Task, data: Data, says: Says) -> list[Record]:
    """What is kept of each item, as a file of JSON gives it back."""
    found = []
    for item in task.items(data, OPTIONS):
        record = task.record(item, [says(pair) for pair in asked(item)], OPTIONS)
        found.append(json.loads(json.dumps(record)))
    return found


def figures(task: Task, data: Data, says: Says) -> Figures:
    """The measures by name and group, of which no two are the same."""
    found = task.measures(records(task, data, says), OPTIONS)
    by_name = {(measure.name, measure.group): measure for measure in found}
    assert len(by_name) == len(found)
    return by_name


def likelihoods(known: Mapping[str, float]) -> Says:
    """Of a continuation with spaces around stripped, whatever stands before it; a token is a word."""

    def says(pair: Pair) -> PairAnswer:
        text = pair.continuation.strip()
        return PairAnswer(known[text], len(text.split()), False)

    return says


def uniform(pair: Pair) -> PairAnswer:
    """A model to which each of 50,272 words is as likely as another."""
    ntokens = len(pair.continuation.split())
    return PairAnswer(ntokens * -10.825203895568848, ntokens, False)


def noise(seed: int) -> Says:
    """A model whose likelihoods per token say nothing."""
    draw = random.Random(seed)

    def says(pair: Pair) -> PairAnswer:
        ntokens = len(pair.continuation.split())
        return PairAnswer(ntokens * draw.gauss(-4, 1), ntokens, False)

    return says
