"""A curve in plain characters, for any terminal.

    loss, bits a token
    9.85 |*
         | *
    6.51 |  **
         |    ****.
    3.17 |       *********o**
         +--------------------
          0               100 updates

``*`` is the mean of the updates of a column, ``.`` one that was lost, ``o`` a validation.
"""

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

LOST, KEPT, VALID = ".", "*", "o"  # a later one is drawn over an earlier one
LEAST_COLUMNS, LEAST_LINES = 20, 3


class Dot(NamedTuple):
    """One value at one update."""

    update: int
    value: float
    sign: str = KEPT


def draw(dots: Sequence[Dot], columns: int, lines: int) -> List[str]:
    """The plot, ``columns`` wide at most and ``lines`` high without the axis below; nothing of less than two updates."""
    dots = [dot for dot in dots if math.isfinite(dot.value)]
    first, last = (choose((dot.update for dot in dots), default=0) for choose in (min, max))
    if last <= first:
        return []
    low, high = (choose(dot.value for dot in dots) for choose in (min, max))
    labels = [f"{low + (high - low) * line / (lines - 1):.4g}" for line in range(lines)]
    shown = {0, lines - 1, *([lines // 2] if lines >= 2 * LEAST_LINES else [])}
    width = max(len(labels[line]) for line in shown)
    room = max(LEAST_COLUMNS, columns - width - 2)
    cells = placed(dots, (first, last), (low, high), room, lines)
    drawn = []
    for line in reversed(range(lines)):
        label = labels[line] if line in shown else ""
        row = "".join(cells.get((column, line), " ") for column in range(room))
        drawn.append(f"{label:>{width}} |{row}".rstrip())
    drawn.append(f"{'':{width}} +{'-' * room}")
    left, right = f"{first:,}", f"{last:,} updates"
    drawn.append(f"{'':{width}}  {left}{right:>{max(0, room - len(left))}}")
    return drawn


def placed(
    dots: Sequence[Dot],
    updates: "Tuple[int, int]",
    values: "Tuple[float, float]",
    columns: int,
    lines: int,
) -> "Dict[Tuple[int, int], str]":
    """(column, line) -> sign; the dots of a column with one sign are one, at their mean."""
    (first, last), (low, high) = updates, values
    of_column: Dict[Tuple[str, int], List[float]] = {}
    for dot in dots:
        column = round((dot.update - first) / (last - first) * (columns - 1))
        of_column.setdefault((dot.sign, column), []).append(dot.value)
    cells = {}
    for sign in (LOST, KEPT, VALID):
        for (of, column), found in of_column.items():
            if of == sign:
                mean = math.fsum(found) / len(found)
                share = (mean - low) / (high - low) if high > low else 0.5
                cells[column, round(share * (lines - 1))] = sign
    return cells
