"""Results as tables, one a task: a column for each model that was measured, and for each that was published.

    for table in tables([read_results(path) for path in paths]): …

A row is a measure and a group, the groups of a measure together, in the task's order; it holds what was measured, and
the published numbers of the same name. Results of other protocols, or over other items, stand side by side all the same, and ``problems`` says so.
"""

from pathlib import PurePath
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.evaluate.comparing import difference
from metaseq_plugin.evaluate.figures import spoken
from metaseq_plugin.evaluate.published import Published, of_task
from metaseq_plugin.evaluate.results import Results, TaskResult
from metaseq_plugin.evaluate.task import OVERALL, Measure


class Row(NamedTuple):
    """What is known under one name.

    Attributes:
        measured: of each model that was measured; None: its results do not have it.
        published: of each published model; None: nobody has published it.
    """

    measure: str
    group: str
    measured: tuple[Optional[Measure], ...]
    published: tuple[Optional[Published], ...]


class Table(NamedTuple):
    """One task.

    Attributes:
        found: model -> what came of the task, of those that have it, in order.
        published: the models of the published columns.
        problems: a sentence each, of what makes columns differ that is not the model.
    """

    name: str
    title: str
    source: str
    found: Mapping[str, TaskResult]
    published: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    @property
    def has_groups(self) -> bool:
        return any(row.group != OVERALL for row in self.rows)

    @property
    def notes(self) -> list[str]:
        """A sentence for each note, in the order of the rows: which measures it is of."""
        found: dict[str, list[str]] = {}
        for measure in (measure for row in self.rows for measure in row.measured if measure):
            names = found.setdefault(measure.note, [])
            if spoken(measure.name) not in names:
                names.append(spoken(measure.name))
        return [f"{', '.join(names)}: {note}" for note, names in found.items() if note]

    @property
    def counts(self) -> Iterator[str]:
        """What of the requests was not as it should be: a sentence each."""
        for name, result in self.found.items():
            if result.ncut:
                yield f"{name}: {result.ncut:,} requests were cut on the left, because the model reads no more."
            if result.nmerged:
                yield (
                    f"{name}: in {result.nmerged:,} requests a token lies on both sides of the boundary; "
                    "it counts as continuation."
                )

    @property
    def citations(self) -> list[str]:
        """A sentence for each source: which models, and where in it."""
        found: dict[str, dict[str, list[str]]] = {}
        for number in (number for row in self.rows for number in row.published if number):
            models = found.setdefault(number.source, {}).setdefault(number.place, [])
            if number.model not in models:
                models.append(number.model)
        return [
            f"{source}: " + "; ".join(f"{', '.join(models)} in {place}" for place, models in places.items()) + "."
            for source, places in found.items()
        ]  # fmt: skip


def tables(results: Sequence[Results]) -> list[Table]:
    """Of every task that one of ``results`` has, in the order in which they are first met."""
    names = model_names(results)
    tasks = dict.fromkeys(task for each in results for task in each.tasks)
    return [table(task, {name: each.tasks[task] for name, each in zip(names, results) if task in each.tasks}) for task in tasks]  # fmt: skip


def model_names(results: Sequence[Results]) -> list[str]:
    """What each model is called: the end of its path; numbered where two are called the same."""
    names = [model_name(each.model) for each in results]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def model_name(model: Mapping[str, Any]) -> str:
    path = str(model.get("path") or "model")
    return PurePath(path).name or path


def table(task: str, found: Mapping[str, TaskResult]) -> Table:
    """Of results of one task, by model."""
    by_key = [
        {(measure.name, measure.group): measure for measure in each.measures}
        for each in found.values()
    ]
    met = dict.fromkeys(key for measures in by_key for key in measures)
    order = list(dict.fromkeys(measure for measure, _ in met))
    keys = sorted(met, key=lambda key: order.index(key[0]))  # a measure's groups stay in order
    numbers = {(row.measure, row.group, row.model): row for row in of_task(task)}
    models = tuple(
        dict.fromkeys(model for measure, group, model in numbers if (measure, group) in keys)
    )
    rows = tuple(
        Row(
            *key,
            tuple(measures.get(key) for measures in by_key),
            tuple(numbers.get((*key, model)) for model in models),
        )
        for key in keys
    )
    first = next(iter(found.values()))
    return Table(task, first.title, first.source, found, models, rows, tuple(problems(found)))


def problems(found: Mapping[str, TaskResult]) -> Iterator[str]:
    """What makes columns differ that is not the model, as ``--compare`` refuses it."""
    why = difference(list(found.items())) if len(found) > 1 else None
    if why is not None:
        yield f"These columns were not measured in the same way: {why}."
