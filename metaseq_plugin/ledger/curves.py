"""Curves of a run that may have a million lines, thinned out while they pass through.

    curve = Curve(most=1000)
    for line in lines:
        curve.add(line, is_kept=True)
    curve.points()                     # at most ``most``, each the mean of as many lines as it takes

Lines are gathered in bins of one width, in lines. When there are more bins than ``most``, neighbours are joined and the
width doubles; a bin holds lines of one stretch only, kept or lost only. The lowest and highest loss of a bin are
kept, so that a spike of one line is seen in a curve of any length.
"""

from typing import Any, List, Mapping, Optional

from metaseq_plugin.ledger.account import Point
from metaseq_plugin.ledger.history import seconds
from metaseq_plugin.storage.json_lines import Row

MOST = 1000
# Means over updates, and over seconds: what a rate is a rate of.
BY_UPDATES = ("gnorm", "clip")
BY_SECONDS = ("tflops", "mfu", "hfu", "watts")
LAST = ("lr", "loss_scale", "noise_scale")


class Bin:
    """Lines that make up one point."""

    def __init__(self, stretch: int, is_kept: bool) -> None:
        self.stretch, self.is_kept = stretch, is_kept
        self.lines = self.update = self.updates = self.start = 0
        self.time = self.tokens = self.seconds = 0.0
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.last: dict[str, Any] = {}
        self.least: dict[str, float] = {}
        self.most: dict[str, float] = {}

    def add(self, line: Row) -> None:
        updates, spent = line["updates"], seconds(line.get("seconds"), 0.0) or 0.0
        tokens = seconds(line.get("ntokens"), 0.0) or 0.0
        self.lines += 1
        self.update, self.start, self.time = line["update"], line["start"], float(line["time"])
        self.updates += updates
        self.tokens += tokens
        self.seconds += spent
        self._mean(line, "loss", tokens or updates)
        for name in BY_UPDATES:
            self._mean(line, name, updates)
        for name in BY_SECONDS:
            self._mean(line, name, spent)
        for name in LAST:
            if (value := seconds(line.get(name))) is not None:
                self.last[name] = value
        if isinstance(norms := line.get("norms"), Mapping):
            self.last["norms"] = norms
        for name in ("loss", "gnorm"):
            if (value := seconds(line.get(name))) is not None:
                self.least[name] = min(value, self.least.get(name, value))
                self.most[name] = max(value, self.most.get(name, value))

    def _mean(self, line: Row, name: str, weight: float) -> None:
        value = seconds(line.get(name))
        if value is not None:
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def join(self, later: "Bin") -> None:
        self.lines += later.lines
        self.update, self.start, self.time = later.update, later.start, later.time
        self.updates += later.updates
        self.tokens += later.tokens
        self.seconds += later.seconds
        for name, value in later.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.weights[name] = self.weights.get(name, 0.0) + later.weights[name]
        self.last.update(later.last)
        for name, value in later.least.items():
            self.least[name] = min(value, self.least.get(name, value))
            self.most[name] = max(later.most[name], self.most.get(name, value))

    def point(self, trail: "Trail") -> Point:
        known: dict[str, Any] = {
            name: self.mean(name) for name in ("loss", *BY_UPDATES, *BY_SECONDS)
        }
        known.update(self.last)
        return Point(
            self.update, self.updates, self.time, self.start, self.is_kept,
            loss_low=self.least.get("loss"), loss_high=self.most.get("loss"),
            gnorm_high=self.most.get("gnorm"), tokens=trail.at(self.update, self.updates, self.tokens),
            tokens_per_second=self.tokens / self.seconds if self.seconds > 0 else None, **known,
        )  # fmt: skip

    def mean(self, name: str) -> Optional[float]:
        weight = self.weights.get(name, 0.0)
        return self.sums[name] / weight if weight > 0 else None


class Trail:
    """The tokens behind a run, which goes back now and then: at each update, those of the way to it."""

    def __init__(self) -> None:
        self._updates, self._tokens = [0], [0.0]

    def at(self, update: int, updates: int, tokens: float) -> float:
        """Behind ``update``, the last of ``updates`` with ``tokens``, in the order in which they were made."""
        self._go_back(update - updates)
        self._updates.append(update)
        self._tokens.append(self._tokens[-1] + tokens)
        return self._tokens[-1]

    def _go_back(self, update: int) -> None:
        """To behind ``update``, if the run is further; a bin that it lies in is cut there."""
        while len(self._updates) > 1 and self._updates[-1] > update:
            last, tokens = self._updates.pop(), self._tokens.pop()
            first = self._updates[-1]
            if first < update:
                share = (update - first) / (last - first)
                self._updates.append(update)
                self._tokens.append(self._tokens[-1] + share * (tokens - self._tokens[-1]))


class Curve:
    """At most ``most`` points, and two more for each stretch."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.width = 1  # lines of a bin
        self.room = 2 * most
        self.bins: List[Bin] = []

    def add(self, line: Row, stretch: int, is_kept: bool) -> None:
        here = self.bins[-1] if self.bins else None
        if here is None or here.lines >= self.width or not fits(here, stretch, is_kept):
            if len(self.bins) >= self.room:
                self._halve()
                self.room = max(self.room, 2 * len(self.bins))  # where every stretch has its own
            here = Bin(stretch, is_kept)
            self.bins.append(here)
        here.add(line)

    def _halve(self) -> None:
        joined: List[Bin] = []
        self.width *= 2
        for later in self.bins:
            here = joined[-1] if joined else None
            can_join = here is not None and here.lines + later.lines <= self.width
            if here is not None and can_join and fits(here, later.stretch, later.is_kept):
                here.join(later)
            else:
                joined.append(later)
        self.bins = joined

    def points(self) -> List[Point]:
        while len(self.bins) > self.most:
            before = len(self.bins)
            self._halve()
            if len(self.bins) == before:  # as many stretches
                break
        trail = Trail()
        return [each.point(trail) for each in self.bins]


def fits(here: Bin, stretch: int, is_kept: bool) -> bool:
    return here.stretch == stretch and here.is_kept == is_kept
