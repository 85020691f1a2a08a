"""What the time of a run was spent on, start by start, so that it adds up.

    times = Times(history)
    for line in lines:
        times.add(line, stretch)
    times.seconds_of(start)            # {"starting": 12.0, "computing": 300.1, …, "lost": 40.2, "unknown": 0.0}

A start counts its own seconds by ``ACCOUNTS`` and tells them at its end, or the tally does. The lines say how they lie
over the updates: computing and waiting of a line whose updates are lost count as ``lost``, of one that is cut in the
middle in proportion; what is behind the last line counts like a line of the updates behind it. Saves and validations
are lost with the update behind which they came, by their events. Where nobody told the seconds of a start, the lines'
sums stand for them, and the rest of the time between begin and end is ``unknown``.
"""

from typing import Dict, List

from metaseq_plugin.ledger.history import History, Stretch, Told, seconds
from metaseq_plugin.storage.json_lines import Row

OF_LINES = ("computing", "waiting", "saving", "validating", "rewinding")
OF_UPDATES = ("computing", "waiting")  # what is lost with them
OF_EVENTS = {"save": "saving", "valid": "validating"}
ANEW = "restarting"
ROUNDING = 1e-3  # seconds: what events round their times to


class Times:
    """Sums over the lines, by start."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lines: Dict[int, Dict[str, float]] = {}
        self._lost: Dict[int, Dict[str, float]] = {}
        self._reached: Dict[int, int] = {}  # the update of the last line

    def add(self, line: Row, stretch: Stretch) -> None:
        share = stretch.share_lost(line["update"] - line["updates"], line["update"])
        start = stretch.start
        self._reached[start] = line["update"]
        for name in OF_LINES:
            spent = seconds(line.get(name))
            if spent is not None and spent > 0:
                add_to(self._lines, start, name, spent)
                if name in OF_UPDATES:
                    add_to(self._lost, start, name, spent * share)

    def seconds_of(self, told: Told) -> Dict[str, float]:
        """Of one start, by what they were spent on; without ``idle``."""
        lines = self._lines.get(told.number, {})
        lost = dict(self._lost.get(told.number, {}))
        spent = dict(told.accounts) if told.accounts is not None else dict(lines)
        share = self._share_behind(told.number)
        for name in OF_UPDATES:
            behind = max(0.0, spent.get(name, 0.0) - lines.get(name, 0.0))
            lost[name] = lost.get(name, 0.0) + behind * share
        for event in told.events:
            if (name := OF_EVENTS.get(event["kind"], "")) and not self._history.was_kept(event):
                lost[name] = lost.get(name, 0.0) + (seconds(event.get("seconds")) or 0.0)
        lost = {name: min(value, spent.get(name, 0.0)) for name, value in lost.items()}
        found = {name: value - lost.get(name, 0.0) for name, value in spent.items()}
        if told.number != min(self._history.starts):
            found[ANEW] = found.pop("starting", 0.0)
        found["lost"] = sum(lost.values())
        rest = told.seen - told.begin - sum(found.values())
        found["unknown"] = rest if rest > ROUNDING else 0.0
        return found

    def _share_behind(self, start: int) -> float:
        """Of the updates behind the last line, the share that is lost."""
        stretches: List[Stretch] = [s for s in self._history.stretches if s.start == start]
        if not stretches:
            return 0.0
        last = stretches[-1]
        reached = min(max(self._reached.get(start, last.first), last.first), last.last)
        return last.share_lost(reached, last.last)


def add_to(sums: Dict[int, Dict[str, float]], start: int, name: str, value: float) -> None:
    of_start = sums.setdefault(start, {})
    of_start[name] = of_start.get(name, 0.0) + value
