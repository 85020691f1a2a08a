"""Results as a table in a terminal, with the published numbers of the nearest OPT beside.

    print("\n".join(table(results)))

    task         measure           group     value ± s.e.       n  published
    crows-pairs  stereotype_score  overall   55.20 ± 1.28   1,508  69.50 OPT-175B [1]

Below: where [1] stands, what a reader must know of a figure, requests that were cut or merged, tasks that were left out.
"""

import math
from typing import Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.evaluate.published import Published, nearest
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.task import Measure

HEADERS = ("task", "measure", "group", "value ± s.e.", "n", "published")
TO_THE_RIGHT = ("value ± s.e.", "n")
GAP = "  "
NONE = "-"


class Cited(NamedTuple):
    """A measure of a task, and what is published of it."""

    task: str
    measure: Measure
    published: Optional[Published]


def table(results: Results) -> list[str]:
    """The lines; as wide as they come."""
    size = results.model.get("num_parameters")
    found = [
        Cited(name, measure, nearest(name, measure.name, measure.group, size))
        for name, task in results.tasks.items()
        for measure in task.measures
    ]
    places = list(dict.fromkeys(one.published.cited for one in found if one.published is not None))
    rows = [row(one, places) for one in found]
    parts = [
        aligned(HEADERS, rows, TO_THE_RIGHT),
        [f"[{number}] {place}" for number, place in enumerate(places, 1)],
        list(notes(found)),
        [line for name, task in results.tasks.items() for line in counts(name, task)],
        [f"left out: {name}. {reason}" for name, reason in results.left_out.items()],
    ]
    return [printable(line) for line in joined(parts)]


def joined(parts: Sequence[Sequence[str]]) -> list[str]:
    """The parts that are not empty, with a blank line between them."""
    return "\n\n".join("\n".join(part) for part in parts if part).split("\n")


def row(one: Cited, places: Sequence[str]) -> tuple[str, ...]:
    measure, published = one.measure, one.published
    beside = ""
    if published is not None:
        number = places.index(published.cited) + 1
        beside = f"{shown(published.value)} {published.model} [{number}]"
    return one.task, measure.name, measure.group, with_error(measure), f"{measure.n:,}", beside


def shown(value: float) -> str:
    """A figure with the digits that a reader can use, whether it is a share, a percentage or a perplexity."""
    return f"{value:,.{digits(value)}f}" if math.isfinite(value) else NONE


def digits(value: float) -> int:
    """Behind the point."""
    return 4 if abs(value) < 1 else 2 if abs(value) < 1000 else 1


def with_error(measure: Measure) -> str:
    """ "55.20 ± 1.28", or with an interval "0.6213 (0.5514 to 0.6801)"."""
    value = shown(measure.value)
    if measure.interval is not None:
        low, high = measure.interval
        return f"{value} ({shown(low)} to {shown(high)})"
    if measure.stderr is None or value == NONE:
        return value
    return f"{value} ± {measure.stderr:,.{digits(measure.value)}f}"


def aligned(
    headers: Sequence[str], rows: Sequence[Sequence[str]], to_the_right: Sequence[str]
) -> list[str]:
    """Lines of columns; what repeats from the line above in the first two is left out."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines, above = [], tuple(headers)
    for cells in (headers, *rows):
        said = list(cells)
        if cells[0] == above[0] and cells is not headers:
            said[0] = ""
            said[1] = "" if cells[1] == above[1] else said[1]
        above = tuple(cells)
        padded = [
            cell.rjust(width) if header in to_the_right else cell.ljust(width)
            for header, cell, width in zip(headers, said, widths, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    return lines


def notes(found: Sequence[Cited]) -> Iterator[str]:
    """What a reader must know of figures, each note once."""
    said: Mapping[str, list[str]] = {}
    told: dict[str, list[str]] = dict(said)
    for one in found:
        if one.measure.note:
            told.setdefault(f"{one.task}: {one.measure.note}", []).append(one.measure.name)
    for note, names in told.items():
        task, _, text = note.partition(": ")
        yield f"{task}, {', '.join(dict.fromkeys(names))}: {text}"


def counts(name: str, task: TaskResult) -> Iterator[str]:
    if task.ncut:
        yield f"{name}: of {task.ncut:,} requests the beginning was not read, because the model reads no more"
    if task.nmerged:
        yield (
            f"{name}: in {task.nmerged:,} requests one token lies on both sides of context and continuation; "
            "it counts as continuation"
        )
