"""Figures over models' sizes, with error bars, and the published series beside: ``metaseq eval … --plot FILE.svg``.

    write_plot([read_results(path) for path in paths], Path("sizes.svg"))

A panel for each measure of all items; one that only has groups is left to the tables. Sizes are parameters, on a
logarithmic axis. matplotlib is the extra ``plot``. The same results give the same file.
"""

from itertools import groupby
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.figures import parameters, spoken
from metaseq_plugin.evaluate.published import Published, series
from metaseq_plugin.evaluate.results import Results
from metaseq_plugin.evaluate.task import OVERALL, Measure
from metaseq_plugin.storage import atomic

OPTION = "--plot"
FORMS = (".svg", ".png")
COLUMNS = 3
WIDTH, HEIGHT = 4.0, 3.0  # inches of a panel
SALT = "metaseq eval"  # of the ids in an SVG, else drawn at random


class Point(NamedTuple):
    """A model's figure.

    Attributes:
        size: parameters.
    """

    size: int
    measure: Measure


class Panel(NamedTuple):
    """One measure of a task over sizes."""

    title: str
    points: tuple[Point, ...]
    published: tuple[Published, ...]


def write_plot(results: Sequence[Results], path: Path) -> None:
    """Write the plot of at least one model to ``path``; an older file is replaced.

    Raises:
        UserError: not .svg or .png, no matplotlib, a model of unknown size, nothing to draw, or a file that cannot be written.
    """
    check_plot(path)
    found = panels(results)
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(found) // COLUMNS)
    columns = min(COLUMNS, len(found))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, found):
        draw(axes, panel)
    for axes in places[len(found) :]:
        axes.remove()
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            matplotlib.rc_context({"svg.hashsalt": SALT}),
            atomic.replacing(path) as unfinished,
        ):
            figure.savefig(unfinished, dpi=150, format=path.suffix[1:], metadata=metadata)
    except OSError as error:
        raise UserError(
            f"`{OPTION}` must be a file that can be written, but {path} cannot ({error.strerror}). Set another."
        ) from error


def check_plot(path: Path) -> None:
    """Raises UserError where no plot can be written to ``path``: before hours of measuring."""
    if path.suffix not in FORMS:
        raise UserError(
            f"`{OPTION}` must end in {' or '.join(FORMS)}, but is {path}. Set another name."
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`{OPTION}` must find matplotlib, but it cannot be imported ({error}). "
            "Install it: pip install 'metaseq-plugin[plot]'."
        ) from error


def known_size(model: Mapping[str, Any]) -> int:
    """The parameters of a model, by its ``about``; raises UserError where they are not known."""
    size = model.get("num_parameters")
    if not isinstance(size, int):
        raise UserError(
            f"`{OPTION}` must have results of models whose size is known, but that of {model.get('path')} "
            "is not. Measure it from its files instead of through a server."
        )
    return size


def panels(results: Sequence[Results]) -> list[Panel]:
    """Of every figure over all items, in the tasks' order.

    Raises:
        UserError: the size of a model is not known, or there is no such figure.
    """
    points: dict[tuple[str, str, str], list[Point]] = {}
    for each in results:
        size = known_size(each.model)
        for name, task in each.tasks.items():
            for measure in task.measures:
                if measure.group == OVERALL:
                    key = (name, task.title, measure.name)
                    points.setdefault(key, []).append(Point(size, measure))
    if not points:
        raise UserError(
            f"`{OPTION}` must have results with a figure of all items, but they have none. Leave it out."
        )
    return [
        Panel(f"{title}: {spoken(measure)}", tuple(sorted(found, key=lambda point: point.size)), tuple(series(name, measure, OVERALL)))
        for (name, title, measure), found in points.items()
    ]  # fmt: skip


def draw(axes: Any, panel: Panel) -> None:
    """One panel, on matplotlib's ``axes``."""
    measured = panel.points
    values = [point.measure.value for point in measured]
    axes.errorbar(
        [point.size for point in measured],
        values,
        yerr=bars(measured),
        marker="o",
        capsize=3,
        color="C0",
        label="measured",
    )
    for number, (name, rows) in enumerate(published_series(panel.published), 1):
        sizes = [row.size for row in rows]
        numbers = [row.value for row in rows]
        axes.plot(sizes, numbers, "--s", color=f"C{number}", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(lambda value, _: parameters(round(value)))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def bars(points: Sequence[Point]) -> Optional[list[list[float]]]:
    """Down and up of each error bar: one standard error, else to the ends of the interval; None: no point has one."""
    found = [reach(point.measure) for point in points]
    return [list(way) for way in zip(*found)] if any(map(any, found)) else None


def reach(measure: Measure) -> tuple[float, float]:
    if measure.stderr is not None:
        return measure.stderr, measure.stderr
    if measure.interval is not None:
        low, high = measure.interval
        return max(0.0, measure.value - low), max(0.0, high - measure.value)
    return 0.0, 0.0


def published_series(rows: Sequence[Published]) -> Iterator[tuple[str, list[Published]]]:
    """OPT's sizes as one, every other model alone; of those whose size is known."""
    known = [row for row in rows if row.size is not None]
    by_name = sorted(known, key=lambda row: (not row.is_opt, row.model if not row.is_opt else ""))
    for name, of in groupby(by_name, key=lambda row: "OPT" if row.is_opt else row.model):
        yield f"{name}, published", sorted(of, key=lambda row: row.size or 0)
