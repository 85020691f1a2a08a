"""Values drawn from a distribution, the same ones wherever and whenever the file is read.

    {uniform: [0, 0.3]}  {log-uniform: [1e-4, 1e-2]}  {integer: [1, 8]}  {choice: [256, 512]}

Both ends of a range belong to it. Real numbers have 4 significant digits, so that names stay short. Each key has
a stream of its own (seed and key): another key, or a larger number, leaves what was drawn as it was.
"""

import math
import random
from typing import Callable, Mapping

from metaseq_plugin.launch.spec import Value
from metaseq_plugin.launch.sweep.marked import Marked

DIGITS = 4
Draw = Callable[[float], Value]  # of a number in [0, 1)


def draw(distribution: Marked, number: int, seed: str) -> list[Value]:
    """``number`` values.

    Raises:
        SweepError: an unknown distribution, or a range that is none.
    """
    entries = distribution.fields(*DISTRIBUTIONS)
    if len(entries) != 1:
        raise distribution.refused("name one distribution", f"Set one of {', '.join(DISTRIBUTIONS)}.", f"{len(entries)}")  # fmt: skip
    ((name, marked),) = entries.items()
    value_at = DISTRIBUTIONS[name](marked)
    # Seeded by text: Python promises the same numbers in all its versions.
    stream = random.Random(seed)
    return [value_at(stream.random()) for _ in range(number)]


def uniform(marked: Marked) -> Draw:
    low, high = ends(marked)
    return lambda share: rounded(low + (high - low) * share, low, high)


def log_uniform(marked: Marked) -> Draw:
    low, high = ends(marked)
    if low <= 0:
        raise marked.refused("begin above 0", "Write another range, or `uniform`.", f"{low:g}")
    return lambda share: rounded(low * math.exp(share * (math.log(high) - math.log(low))), low, high)  # fmt: skip


def integer(marked: Marked) -> Draw:
    ends(marked)
    low, high = (item.whole(-(2**53)) for item in marked.items())
    return lambda share: low + int(share * (high - low + 1))


def choice(marked: Marked) -> Draw:
    values = [item.plain() for item in marked.items()]
    return lambda share: values[int(share * len(values))]


def ends(marked: Marked) -> tuple[float, float]:
    """The two ends of a range."""
    numbers = [item.number() for item in marked.items()]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        shown = ", ".join(f"{number:g}" for number in numbers)
        raise marked.refused("be a range [LOW, HIGH] with LOW below HIGH", "Write [0.1, 0.5].", f"[{shown}]")  # fmt: skip
    return numbers[0], numbers[1]


def rounded(value: float, low: float, high: float) -> float:
    """``value`` with few digits, still within the range."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


DISTRIBUTIONS: Mapping[str, Callable[[Marked], Draw]] = {
    "uniform": uniform,
    "log-uniform": log_uniform,
    "integer": integer,
    "choice": choice,
}
