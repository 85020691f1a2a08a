"""Which plots the page has, and their numbers: columns of a run's curve and of its validations.

    found = tables(account)     # {"updates": {"update": […], "hours": […], "tokens": […], "loss": […]}, "valid wiki": {…}}
    plots(["a"], [found], "measured")
    # [{"key": "loss", "lines": [{"run": 0, "table": "updates", "column": "loss", "name": "train"}]}]

A plot that no run has a number for is left out.
"""

from typing import Any, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.ledger.account import Account
from metaseq_plugin.report.page.norms import MOST_LINES, UNITS, by_kind, chosen
from metaseq_plugin.report.page.places import Columns, Places, digits

COLOURS, DASHES = 8, 4  # of style.css
POWER = "power"


class Plot(NamedTuple):
    """A plot that every run may have.

    Attributes:
        lines: columns of the updates' table, each with its name; "" where it is the plot's only one.
        base: of a logarithmic axis, which the reader may switch; None: always linear.
        from_zero: a linear axis begins there.
    """

    key: str
    title: str
    unit: str
    lines: Mapping[str, str]
    base: Optional[int] = None
    from_zero: bool = False


PLOTS = (
    Plot("loss", "Loss", "bits a token", {"loss": "train"}, base=10),
    Plot("gnorm", "Gradient norm", "before clipping", {"gnorm": ""}, base=10),
    Plot("lr", "Learning rate", "", {"lr": ""}, base=10, from_zero=True),
    Plot("loss-scale", "Loss scale", "", {"loss_scale": ""}, base=2),
    Plot("clip", "Clipped updates", "%", {"clip": ""}, from_zero=True),
    Plot("noise-scale", "Gradient noise scale", "tokens", {"noise_scale": ""}, base=10),
    Plot("speed", "Speed", "tokens/s", {"tokens_per_second": ""}, from_zero=True),
    Plot("utilisation", "Utilisation", "% of the peak", {"mfu": "MFU", "hfu": "HFU"}, from_zero=True),
    Plot(POWER, "Power", "W", {"watts": ""}, from_zero=True),
)  # fmt: skip
PERCENT = ("mfu", "hfu")  # ratios in the ledger
COLUMNS = (
    "loss", "loss_low", "loss_high", "gnorm", "gnorm_high", "lr", "loss_scale", "clip", "noise_scale",
    "tokens_per_second", "mfu", "hfu", "watts",
)  # fmt: skip


def tables(account: Account, most_norms: int = MOST_LINES) -> dict[str, Columns]:
    """The columns that lines are drawn from: "updates", one of each kind of norms, one of each validation set.

    Args:
        most_norms: of a kind, how many are drawn.
    """
    found = {"updates": update_columns(account)}
    for subset in subsets(account):
        found[f"valid {subset}"] = valid_columns(account, subset)
    return {**found, **norm_tables(account, most_norms)}


def update_columns(account: Account) -> Columns:
    """Of the curve's points, without columns that no point has."""
    rows = [point._asdict() for point in account.curve]
    columns = Places(account).of_points(account.curve)
    for name in COLUMNS:
        times = 100 if name in PERCENT else 1
        values = [digits(row[name], times) for row in rows]
        if any(value is not None for value in values):
            columns[name] = values
    return columns


def valid_columns(account: Account, subset: str) -> Columns:
    rows = [row for row in account.valid if str(row.get("subset")) == subset]
    return {**Places(account).of_rows(rows), "loss": [digits(row.get("loss")) for row in rows]}


def subsets(account: Account) -> list[str]:
    """The names of the validation sets."""
    return sorted({str(row.get("subset")) for row in account.valid})


def norm_tables(account: Account, most: int) -> dict[str, Columns]:
    points = [point for point in account.curve if point.norms]
    norms = [by_kind(point.norms or {}) for point in points]
    found: dict[str, Columns] = {}
    for kind in dict.fromkeys(kind for each in norms for kind in each):
        names = list(dict.fromkeys(name for each in norms for name in each.get(kind, {})))
        columns = Places(account).of_points(points)
        for name in chosen(names, most):
            columns[f"norm {name}"] = [digits(each.get(kind, {}).get(name)) for each in norms]
        found[f"norms {kind}"] = columns
    return found


def plots(
    names: Sequence[str], every: Sequence[Mapping[str, Columns]], power_basis: str
) -> list[dict[str, Any]]:
    """All plots, each with the lines of all runs that have numbers for it.

    Args:
        names: of the runs.
        every: their ``tables``.
        power_basis: how the power is known.
    """
    found = [drawn(plot, names, every) for plot in PLOTS]
    for plot in found:
        if plot["key"] == POWER:
            plot["unit"] += f", {power_basis}"
    kinds = dict.fromkeys(key for tables in every for key in tables if key.startswith("norms "))
    found += [drawn_norms(kind, names, every) for kind in kinds]
    return [plot for plot in found if plot["lines"]]


def drawn(
    plot: Plot, names: Sequence[str], every: Sequence[Mapping[str, Columns]]
) -> dict[str, Any]:
    lines = []
    for run, found in enumerate(every):
        for column, name in plot.lines.items():
            if column in found["updates"]:
                lines.append(line(run, "updates", column, name or plot.title.lower()))
        if plot.key == "loss":
            valid = [table for table in found if table.startswith("valid ")]
            lines += [{**line(run, table, "loss", table.split(" ", 1)[1]), "hasPoints": True} for table in valid]  # fmt: skip
    return described(plot, lines, names)


def drawn_norms(
    table: str, names: Sequence[str], every: Sequence[Mapping[str, Columns]]
) -> dict[str, Any]:
    kind = table.split(" ", 1)[1]
    lines = [
        line(run, table, column, column.split(" ", 1)[1])
        for run, found in enumerate(every)
        for column in found.get(table, {})
        if column.startswith("norm ")
    ]
    return described(
        Plot(f"norms-{kind}", f"Norms of {kind}", UNITS.get(kind, ""), {}, base=10), lines, names
    )


def line(run: int, table: str, column: str, name: str) -> dict[str, Any]:
    return {"run": run, "table": table, "column": column, "name": name}


def described(plot: Plot, lines: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The plot as the scripts take it. With several runs, a run has a colour and is named, and its lines are dashed."""
    for number, each in enumerate(lines):
        own = [other for other in lines if other["run"] == each["run"]]
        is_alone = len(names) == 1
        each["colour"] = (number if is_alone else each["run"]) % COLOURS
        each["dash"] = (
            0 if is_alone else next(n for n, line in enumerate(own) if line is each) % DASHES
        )
        if not is_alone:
            run = names[each["run"]]
            each["title"] = run if len(own) == 1 else f"{run}: {each['name']}"
    return {
        "key": plot.key, "title": plot.title, "unit": plot.unit, "base": plot.base,
        "fromZero": plot.from_zero, "lines": [named(each) for each in lines],
    }  # fmt: skip


def named(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "name": line.pop("title", line["name"])}
