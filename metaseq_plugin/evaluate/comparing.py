"""Several files of results side by side: only what was measured in the same way.

    found = compare(["a", "b"], [results_a, results_b])
    print("\n".join(found.lines)); found.differing

Two results of a task are comparable where protocol, data and items are the same; a task that differs is named with what
differs, and not compared.
"""

from typing import Any, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, brief, printable
from metaseq_plugin.evaluate.figures import NONE, measured
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.table import aligned, by_name
from metaseq_plugin.evaluate.task import Measure

MAX_SHOWN = 60  # characters of a value in a sentence


class Comparison(NamedTuple):
    """What came of it.

    Attributes:
        lines: the table; a column for each model.
        differing: a sentence for each task that was not compared.
    """

    lines: Sequence[str]
    differing: Sequence[str]


def compare(names: Sequence[str], results: Sequence[Results]) -> Comparison:
    """The figures of models, of which each has a column of its name.

    Raises:
        UserError: fewer than two, or nothing that can be compared.
    """
    if len(results) < 2:
        raise UserError(
            f"`--compare` must name at least two files of results, but names {len(results)}. Set another."
        )
    rows, differing = [], []
    for task in dict.fromkeys(name for each in results for name in each.tasks):
        having = [
            (name, each.tasks[task]) for name, each in zip(names, results) if task in each.tasks
        ]
        why = difference(having)
        if why is not None:
            differing.append(f"{task} was not compared: {why}.")
        else:
            rows += rows_of(task, [each.tasks.get(task) for each in results])
    if not rows:
        raise UserError(
            *differing,
            "`--compare` must name results that were measured in the same way, but no two are. Run `metaseq eval` "
            "with the same options and data on each model.",
        )
    headers = ("task", "measure", "group", *names)
    lines = aligned(headers, rows, headers[3:])
    return Comparison([printable(line) for line in lines], differing)


def difference(having: Sequence[tuple[str, TaskResult]]) -> Optional[str]:
    """Why results of one task, by the names of their models, cannot stand side by side; None: they can."""
    (name, first), *others = having
    if not others:
        return f"only {name} has it"
    for other_name, other in others:
        for part, before, now in (
            ("protocol", first.protocol, other.protocol),
            ("data", first.data, other.data),
        ):
            found = first_difference(before, now)
            if found:
                return f"{name} and {other_name} differ in {part} {found}"
        if (first.n, first.items) != (other.n, other.items):
            return f"{name} and {other_name} have other items ({first.n:,} and {other.n:,})"
    return None


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first name whose values differ, with both; nothing if none does."""
    for name in sorted(before.keys() | now.keys()):
        values = [mapping.get(name, "nothing") for mapping in (before, now)]
        if values[0] != values[1]:
            return f"{name} ({brief(str(values[0]), MAX_SHOWN)} and {brief(str(values[1]), MAX_SHOWN)})"
    return ""


def rows_of(task: str, found: Sequence[Optional[TaskResult]]) -> list[tuple[str, ...]]:
    """A row for each figure that any of them has."""
    figures = [
        {} if of is None else {(one.name, one.group): one for one in by_name(of.measures)}
        for of in found
    ]
    keys = dict.fromkeys(key for of in figures for key in of)
    return [(task, *key, *(cell(of.get(key)) for of in figures)) for key in keys]


def cell(measure: Optional[Measure]) -> str:
    return NONE if measure is None else measured(measure)
