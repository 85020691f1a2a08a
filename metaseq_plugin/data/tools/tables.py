"""Tables and numbers as both tools print them."""

import sys
from typing import Sequence, Union

from tabulate import tabulate

Cell = Union[str, int, float]


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], num_bars: int = 0) -> str:
    """Columns under headers: the first on the left, numbers on the right, ``num_bars`` on the left."""
    num_numbers = len(headers) - 1 - num_bars
    align = ["left", *["right"] * num_numbers, *["left"] * num_bars]
    cells = [[number(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="simple", colalign=align, disable_numparse=True)


def show(text: str) -> None:
    """Print ``text``; a character that the terminal cannot take, as in a name that is not UTF-8, as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201


def number(value: Cell) -> str:
    """1234567 → "1,234,567"; text stays as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def share(part: float, whole: float) -> str:
    """A percentage; of nothing there is none."""
    return "" if whole == 0 else f"{part / whole:.2%}"
