"""The average of the paper's 14 tasks, which says how many of them it is over.

    average_of({"piqa": 62.3, "winogrande": 50.2}).line

The paper measures 16 and leaves MultiRC and WiC out of its averages, since they favour GPT-3 or OPT out of proportion
(Zhang et al. 2022, arXiv 2205.01068, section 3.1).
"""

import statistics
from typing import Mapping, NamedTuple

from metaseq_plugin.evaluate.tasks import GROUPS

LEFT_OUT = ("multirc", "wic")
AVERAGED = tuple(name for name in GROUPS["abilities"] if name not in LEFT_OUT)
# What a task without "acc" is averaged by.
MEASURE_OF = {"record": "em"}
MEASURE = "acc"


class Average(NamedTuple):
    """The mean of ``tasks``, in percent; ``missing`` are those of the paper's 14 that were not measured."""

    value: float
    tasks: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def line(self) -> str:
        """As it is printed, always with its count."""
        text = (
            f"average of {len(self.tasks)} of the paper's {len(AVERAGED)} tasks: {self.value:.2f}"
        )
        return f"{text}; not measured: {', '.join(self.missing)}" if self.missing else text


def measure_of(task: str) -> str:
    """The measure by which ``task`` counts."""
    return MEASURE_OF.get(task, MEASURE)


def average_of(found: Mapping[str, float]) -> Average:
    """The average over those of the 14 that ``found`` has: task -> its ``measure_of``, in percent.

    Raises:
        ValueError: it has none of them.
    """
    tasks = tuple(name for name in AVERAGED if name in found)
    missing = tuple(name for name in AVERAGED if name not in found)
    return Average(statistics.fmean(found[name] for name in tasks), tasks, missing)
