"""Results as a table in a terminal, with the published numbers of the nearest OPT beside.

    print("\n".join(table(results)))

    task         measure           group     value ± s.e.       n  published
    crows-pairs  stereotype_score  overall   55.20 ± 1.28   1,508  69.50 OPT-175B [1]

Below: the average of the paper's tasks of ability, where [1] stands, what a reader must know of a figure, requests that
were cut or merged, and tasks that were left out.
"""

from typing import Iterator, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import printable
from metaseq_plugin.evaluate.abilities.average import AVERAGED, average_of, measure_of
from metaseq_plugin.evaluate.figures import measured, shown
from metaseq_plugin.evaluate.published import Published, nearest
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.task import OVERALL, Measure

HEADERS = ("task", "measure", "group", "value ± s.e.", "n", "published")
TO_THE_RIGHT = ("value ± s.e.", "n")
GAP = "  "


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
        for measure in by_name(task.measures)
    ]
    places = list(dict.fromkeys(one.published.cited for one in found if one.published is not None))
    rows = [row(one, places) for one in found]
    parts = [
        aligned(HEADERS, rows, TO_THE_RIGHT),
        list(average(results)),
        [f"[{number}] {place}" for number, place in enumerate(places, 1)],
        list(notes(found)),
        [line for name, task in results.tasks.items() for line in counts(name, task)],
        [f"left out: {name}. {reason}" for name, reason in results.left_out.items()],
    ]
    return [printable(line) for line in joined(parts)]


def by_name(measures: Sequence[Measure]) -> list[Measure]:
    """The groups of a measure one below the other."""
    names = [measure.name for measure in measures]
    return sorted(measures, key=lambda measure: names.index(measure.name))


def joined(parts: Sequence[Sequence[str]]) -> list[str]:
    """The parts that are not empty, with a blank line between them."""
    return "\n\n".join("\n".join(part) for part in parts if part).split("\n")


def row(one: Cited, places: Sequence[str]) -> tuple[str, ...]:
    measure, published = one.measure, one.published
    beside = ""
    if published is not None:
        number = places.index(published.cited) + 1
        beside = f"{shown(published.value)} {published.model} [{number}]"
    # One of the two is enough here; the page has both.
    plain = measure if measure.stderr is None else measure._replace(interval=None)
    return one.task, measure.name, measure.group, measured(plain), f"{measure.n:,}", beside


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


def average(results: Results) -> Iterator[str]:
    """The average of the paper's tasks of ability, where several of them were measured."""
    found = {
        name: measure.value
        for name, task in results.tasks.items()
        for measure in task.measures
        if name in AVERAGED and (measure.name, measure.group) == (measure_of(name), OVERALL)
    }
    if len(found) > 1:
        yield average_of(found).line


def notes(found: Sequence[Cited]) -> Iterator[str]:
    """What a reader must know of figures, each note once."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for one in found:
        if one.measure.note:
            names.setdefault((one.task, one.measure.note), {})[one.measure.name] = None
    for (task, note), measures in names.items():
        yield f"{task}, {', '.join(measures)}: {note}"


def counts(name: str, task: TaskResult) -> Iterator[str]:
    if task.ncut:
        yield f"{name}: of {task.ncut:,} requests the beginning was not read, because the model reads no more"
    if task.nmerged:
        yield (
            f"{name}: in {task.nmerged:,} requests one token lies on both sides of context and continuation; "
            "it counts as continuation"
        )
