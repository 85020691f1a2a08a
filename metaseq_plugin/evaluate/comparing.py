"""Several files of results side by side: only what was measured in the same way.

    found = compare([("a", results_a), ("b", results_b)])
    print("\n".join(found.lines)); found.differing

Two results of a task are comparable where protocol, data and items are the same; a task that differs is named with what
differs, and not compared.
"""

from typing import Any, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError, brief, printable
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.table import NONE, aligned, with_error
from metaseq_plugin.evaluate.task import Measure

MAX_SHOWN = 60  # characters of a value in a sentence
Named = tuple[str, Results]


class Comparison(NamedTuple):
    """What came of it.

    Attributes:
        lines: the table; a column for each file.
        differing: a sentence for each task that was not compared.
    """

    lines: Sequence[str]
    differing: Sequence[str]


def compare(files: Sequence[Named]) -> Comparison:
    """The figures of ``files``, by the names of their columns.

    Raises:
        UserError: fewer than two, or nothing that can be compared.
    """
    if len(files) < 2:
        raise UserError(
            f"`--compare` must name at least two files of results, but names {len(files)}. Set another."
        )
    rows, differing = [], []
    for task in dict.fromkeys(name for _, results in files for name in results.tasks):
        having = [(name, results.tasks[task]) for name, results in files if task in results.tasks]
        why = difference(having)
        if why is not None:
            differing.append(f"{task} was not compared: {why}.")
        else:
            rows += rows_of(task, [results.tasks.get(task) for _, results in files])
    if not rows:
        raise UserError(
            *differing,
            "`--compare` must name results that were measured in the same way, but no two are. Run `metaseq eval` "
            "with the same options and data on each model.",
        )
    headers = ("task", "measure", "group", *(name for name, _ in files))
    return Comparison([printable(line) for line in aligned(headers, rows, headers[3:])], differing)


def difference(having: Sequence[tuple[str, TaskResult]]) -> Optional[str]:
    """Why results of one task cannot stand side by side; None: they can."""
    first, *others = having
    if not others:
        return f"only {first[0]} has it"
    for name, task in others:
        for part, before, now in (
            ("protocol", first[1].protocol, task.protocol),
            ("data", first[1].data, task.data),
        ):
            found = first_difference(before, now)
            if found:
                return f"{first[0]} and {name} differ in {part} {found}"
        if (first[1].n, first[1].items) != (task.n, task.items):
            return f"{first[0]} and {name} have other items ({first[1].n:,} and {task.n:,})"
    return None


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first name whose values differ, with both; nothing if none does."""
    absent = "nothing"
    for name in sorted(before.keys() | now.keys()):
        values = [mapping.get(name, absent) for mapping in (before, now)]
        if values[0] != values[1]:
            return f"{name} ({brief(str(values[0]), MAX_SHOWN)} and {brief(str(values[1]), MAX_SHOWN)})"
    return ""


def rows_of(task: str, found: Sequence[Optional[TaskResult]]) -> list[tuple[str, ...]]:
    """A row for each figure that any file has; the protocol is the same, so all with it have the same ones."""
    figures = [
        {} if of is None else {(one.name, one.group): one for one in of.measures} for of in found
    ]
    keys = dict.fromkeys(key for of in figures for key in of)
    return [(task, *key, *(cell(of.get(key)) for of in figures)) for key in keys]


def cell(measure: Optional[Measure]) -> str:
    return NONE if measure is None else with_error(measure)
