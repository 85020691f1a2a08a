"""Histograms of document lengths: bins that double, as a table and as a picture.

Bin 0 holds lengths below 1, bin b > 0 those in [2^(b-1), 2^b).
"""

from pathlib import Path
from typing import Iterable, Mapping

import numpy as np

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.tools.tables import Cell, share, table

NUM_BINS = 40  # the last holds half a terabyte
BAR_WIDTH = 32  # characters
MAX_CURVES = 8  # corpora shown one by one
PLOT_OPTION = "--plot"


class Lengths:
    """How many documents, and how much of the text, have each length."""

    def __init__(self) -> None:
        self.documents = np.zeros(NUM_BINS, dtype=np.int64)
        self.total = np.zeros(NUM_BINS, dtype=np.int64)  # of the lengths in the bin

    def add(self, lengths: np.ndarray) -> None:
        """Count ``lengths``, (documents,) of integers."""
        bins = np.frexp(lengths)[1]  # length = m 2^b with m in [0.5, 1)
        self.documents += np.bincount(bins, minlength=NUM_BINS)
        np.add.at(self.total, bins, lengths)

    @classmethod
    def sum_of(cls, several: Iterable["Lengths"]) -> "Lengths":
        result = cls()
        for lengths in several:
            result.documents += lengths.documents
            result.total += lengths.total
        return result

    def as_text(self, unit: str) -> str:
        """A row a bin between the first and the last that hold something."""
        used = np.flatnonzero(self.documents)
        if len(used) == 0:
            return "no documents"
        num_documents, num_units = int(self.documents.sum()), int(self.total.sum())
        longest = int(self.documents.max())
        rows: list[list[Cell]] = []
        for number in range(used[0], used[-1] + 1):
            documents, total = int(self.documents[number]), int(self.total[number])
            # No bar is only where nothing is.
            bar = "█" * max(round(documents / longest * BAR_WIDTH), int(documents > 0))
            of_all = share(documents, num_documents), share(total, num_units)
            rows.append([_range(int(number)), documents, *of_all, bar])
        headers = [f"{unit} a document", "documents", "share", f"of all {unit}", ""]
        return table(headers, rows, num_bars=1)

    def as_json(self) -> list[dict[str, int]]:
        return [
            {"below": 2**number, "documents": int(self.documents[number]), "total": int(total)}
            for number, total in enumerate(self.total)
            if self.documents[number]
        ]


def _range(number: int) -> str:
    if number == 0:
        return "0"
    first, last = 2 ** (number - 1), 2**number - 1
    return f"{first:,}" if first == last else f"{first:,} – {last:,}"


def plot(corpora: Mapping[str, Lengths], unit: str, path: Path) -> None:
    """Two pictures in one PNG: documents, and text, by length, the corpora stacked.

    Raises UserError where matplotlib is not installed, OSError where ``path`` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"`{PLOT_OPTION}` must find matplotlib, but it cannot be imported ({error}). "
            "Install it: pip install matplotlib."
        ) from error
    curves = _largest(corpora)
    used = np.flatnonzero(sum(lengths.documents for lengths in curves.values()))
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    bins = np.arange(first, last + 1)
    pictures = (upper, "documents", "documents"), (lower, "total", f"{unit} in them")
    for axes, field, label in pictures:
        bottom = np.zeros(len(bins))
        for name, lengths in curves.items():
            values = vars(lengths)[field][first : last + 1]
            axes.bar(bins, values, bottom=bottom, width=0.9, label=name)
            bottom += values
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    upper.legend(frameon=False, fontsize="small")
    lower.set_xticks(bins, [_range(int(number)) for number in bins], rotation=45, ha="right")
    lower.set_xlabel(f"{unit} a document")
    figure.savefig(path, dpi=120, format="png")


def _largest(corpora: Mapping[str, Lengths]) -> dict[str, Lengths]:
    """The MAX_CURVES corpora with most text, and the others as one."""
    by_size = sorted(corpora, key=lambda name: -int(corpora[name].total.sum()))
    curves = {name: corpora[name] for name in by_size[:MAX_CURVES]}
    if len(by_size) > MAX_CURVES:
        others = by_size[MAX_CURVES:]
        curves[f"{len(others)} others"] = Lengths.sum_of(corpora[name] for name in others)
    return curves
