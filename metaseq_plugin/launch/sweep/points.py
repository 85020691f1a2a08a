"""The points of a sweep: every combination of what its sections vary.

    grid:   {lr: [1e-3, 6e-4], seed: [1, 2]}       every value with every other: 4
    zip:    {arch: [opt_125m, opt_350m], lr: [6e-4, 3e-4]}     the first with the first, …: 2
    list:   [{lr: 1e-3}, {lr: 1e-4, dropout: 0}]   as they stand: 2
    random: {number: 20, seed: 1, draw: {lr: {log-uniform: [1e-4, 1e-2]}}}     drawn: 20

Sections multiply, in the order of the file; the last one changes fastest.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Iterator, Mapping, Sequence

from metaseq_plugin.launch.spec import Value
from metaseq_plugin.launch.sweep.marked import Marked, SweepError
from metaseq_plugin.launch.sweep.random_values import draw

MAX_POINTS = 10_000
SECTIONS = ("grid", "zip", "list", "random")

Values = dict[str, Value]


@dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
        values: by key; the keys are in the order of the file.
        place: where in the file.
    """

    values: Mapping[str, Value]
    place: str

    @property
    def shown(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.values.items()) or "all as fixed"


@dataclass(frozen=True)
class Section:
    """What one section varies.

    Attributes:
        keys: key -> where it stands.
        rows: the combinations of its values.
        places: of each row.
    """

    keys: Mapping[str, str]
    rows: Sequence[Values]
    places: Sequence[str]


def read_points(top: Marked) -> tuple[list[Point], dict[str, str]]:
    """All combinations, in order, and the keys that vary with their places.

    Args:
        top: the file or one stage; what is no section is passed over.

    Raises:
        SweepError: an empty or unequal section, a key in two sections, more than ``MAX_POINTS``.
    """
    sections: list[Section] = []
    keys: dict[str, str] = {}
    total = 1
    for name, marked in top.fields().items():
        if name not in SECTIONS:
            continue
        total *= number_of_rows(name, marked)
        if total > MAX_POINTS:
            raise marked.refused(
                f"leave at most {MAX_POINTS:,} runs", "Vary less, or draw some with `random`.", f"{total:,}"
            )  # fmt: skip
        section = READERS[name](marked)
        for key, place in section.keys.items():
            if key in keys:
                raise SweepError(
                    f"{place}: `{key}` must vary in one section, but does in {keys[key]} too. Leave one out."
                )
        keys.update(section.keys)
        sections.append(section)
    points = []
    for chosen in itertools.product(*(zip(section.rows, section.places) for section in sections)):
        values = {key: value for row, _ in chosen for key, value in row.items()}
        ordered = {key: values[key] for key in keys if key in values}  # points of a list may differ
        points.append(Point(ordered, chosen[-1][1] if chosen else top.place))
    return points, keys


def number_of_rows(name: str, marked: Marked) -> int:
    """How many a section gives, before any is made."""
    if name == "grid":
        return math.prod(len(entry.items()) for entry in filled(marked).values())
    if name == "zip":
        return len(next(iter(filled(marked).values())).items())
    if name == "random":
        entries = marked.fields("number", "seed", "draw")
        return required(marked, entries, "number", "Write how many to draw.").whole(1)
    return len(marked.items())


def filled(marked: Marked) -> Mapping[str, Marked]:
    """The entries of a mapping that has some."""
    entries = marked.fields()
    if not entries:
        raise marked.refused("vary something", "Leave it out, or give it `key: [values]`.")
    return entries


def required(marked: Marked, entries: Mapping[str, Marked], key: str, remedy: str) -> Marked:
    """The entry ``key``, which must be there."""
    if key not in entries:
        raise marked.refused(f"have `{key}`", remedy, "without")
    return entries[key]


def columns(marked: Marked) -> dict[str, list[Value]]:
    return {key: [item.plain() for item in entry.items()] for key, entry in filled(marked).items()}


def places_of(entries: Mapping[str, Marked]) -> dict[str, str]:
    return {key: entry.place for key, entry in entries.items()}


def grid(marked: Marked) -> Section:
    values = columns(marked)
    rows = [dict(zip(values, row)) for row in itertools.product(*values.values())]
    return Section(places_of(marked.fields()), rows, [marked.place] * len(rows))


def zipped(marked: Marked) -> Section:
    values = columns(marked)
    first = next(iter(values))
    for key, entry in marked.fields().items():
        if len(values[key]) != len(values[first]):
            raise entry.refused(
                f"have as many values as {first} ({len(values[first])})", "Write a value for each.", f"{len(values[key])}"
            )  # fmt: skip
    rows = [dict(zip(values, row)) for row in zip(*values.values())]
    return Section(places_of(marked.fields()), rows, [marked.place] * len(rows))


def listed(marked: Marked) -> Section:
    keys: dict[str, str] = {}
    rows = []
    for item in marked.items():
        entries = filled(item)
        rows.append({key: entry.plain() for key, entry in entries.items()})
        keys = {**places_of(entries), **keys}
    return Section(in_order(rows, keys), rows, [item.place for item in marked.items()])


def in_order(rows: Sequence[Values], keys: Mapping[str, str]) -> dict[str, str]:
    """``keys`` in the order in which the rows first have them."""
    return {key: keys[key] for row in rows for key in row}


def drawn(marked: Marked) -> Section:
    entries = marked.fields("number", "seed", "draw")
    number = entries["number"].whole(1)
    seed = required(marked, entries, "seed", "Write `seed: 1`: the same seed draws the same values.").whole(0)  # fmt: skip
    distributions = filled(required(marked, entries, "draw", "Write `draw: {lr: {log-uniform: [1e-4, 1e-2]}}`."))  # fmt: skip
    values = {key: draw(entry, number, f"{seed}/{key}") for key, entry in distributions.items()}
    rows = [dict(zip(values, row)) for row in zip(*values.values())]
    return Section(places_of(distributions), rows, [marked.place] * number)


READERS = {"grid": grid, "zip": zipped, "list": listed, "random": drawn}


def without_repeats(points: Sequence[Point]) -> Iterator[tuple[Point, int]]:
    """(point, how often it is there) of the different ones."""
    counts: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for point in points:
        counts.setdefault(identity(point.values), []).append(point)
    for same in counts.values():
        yield same[0], len(same)


def identity(values: Mapping[str, Value]) -> tuple[tuple[str, str], ...]:
    """What two points have in common that give the same command."""
    return tuple(sorted((key, "" if not_given(value) else repr(value)) for key, value in values.items()))  # fmt: skip


def not_given(value: Value) -> bool:
    return value is None or value is False
