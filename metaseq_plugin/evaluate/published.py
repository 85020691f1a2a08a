"""What papers and others' records report of the same measures: ``published.tsv``, a row a number, each with its source.

    nearest("lambada", "acc", "overall", 110_000_000)      # of OPT-125M, with where it stands
    of_task("crows-pairs")                                 # all rows of a task, as the file orders them

A number of a figure without a table is not in it, nor one that no task here measures. The sizes are those in the
models' names, as in Table 1 of OPT's paper.
"""

import csv
import math
from functools import cache
from importlib.resources import files
from typing import NamedTuple, Optional, Sequence

FILE = "published.tsv"
COLUMNS = ("task", "measure", "group", "model", "size", "value", "unit", "source", "place")
OURS = "OPT-"  # how the names of the models begin that a model of this package is compared with


class Published(NamedTuple):
    """One number.

    Attributes:
        task, measure, group: as the task's ``Measure`` calls them.
        model: as its source calls it.
        size: parameters; None: the source does not say.
        text: the number as it is published.
        unit: "percent", "share" (from 0 to 1) or "perplexity".
        source, place: the paper or record, and where in it.
    """

    task: str
    measure: str
    group: str
    model: str
    size: Optional[int]
    text: str
    unit: str
    source: str
    place: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def is_opt(self) -> bool:
        return self.model.startswith(OURS)

    @property
    def cited(self) -> str:
        return f"{self.source}, {self.place}"


@cache
def published() -> tuple[Published, ...]:
    """All rows, as the file orders them."""
    text = files("metaseq_plugin.evaluate").joinpath(FILE).read_text("utf-8")
    first, *lines = csv.reader(text.splitlines(), delimiter="\t")
    places = [first.index(name) for name in COLUMNS]
    return tuple(row_of([line[place] for place in places]) for line in lines)


def row_of(cells: Sequence[str]) -> Published:
    """Of the cells of ``COLUMNS``."""
    task, measure, group, model, size, *others = cells
    return Published(task, measure, group, model, int(size) if size else None, *others)


def of_task(task: str) -> Sequence[Published]:
    return [row for row in published() if row.task == task]


def series(task: str, measure: str, group: str) -> Sequence[Published]:
    """Of every model that has the number."""
    return [row for row in of_task(task) if (row.measure, row.group) == (measure, group)]


def nearest(
    task: str, measure: str, group: str, num_parameters: Optional[int]
) -> Optional[Published]:
    """The number of the OPT whose size is nearest, by the ratio of sizes; None: there is none.

    Args:
        num_parameters: of the model that was measured; None, as of one that is served: the largest OPT.
    """
    rows = [row for row in series(task, measure, group) if row.is_opt and row.size is not None]
    if not rows:
        return None
    if num_parameters is None:
        return max(rows, key=lambda row: row.size or 0)
    return min(rows, key=lambda row: abs(math.log((row.size or 1) / num_parameters)))
