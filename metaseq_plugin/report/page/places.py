"""Where on the x axes of the plots things stand: by updates, by hours since the first start, by tokens.

    along = Places(account)
    along.of_points(account.curve)        # {"update": […], "hours": […], "tokens": […], "start": […], "kept": […]}
    along.at(update=40, time=1.8e9)       # {"update": 40, "hours": 0.25, "tokens": 163840.0}

What has an update and no count of tokens, as an event, stands where the run as it now is had made that update: between the
counts on both sides of it, and behind the last one at the pace of before.
"""

from bisect import bisect_left
from typing import Any, Mapping, Optional, Sequence

from metaseq_plugin.ledger.account import Account, Point
from metaseq_plugin.ledger.history import seconds

HOUR = 3600.0
Columns = dict[str, list[Any]]


class Places:
    """Of one run."""

    def __init__(self, account: Account) -> None:
        self._begin = account.begin
        self._updates, self._tokens = [0], [0.0]  # of what was kept, in order
        for point in account.curve:
            if point.is_kept and point.tokens is not None and point.update > self._updates[-1]:
                if len(self._updates) == 1:  # nothing is known of updates that another run had made
                    self._updates[0] = point.update - point.updates
                self._updates.append(point.update)
                self._tokens.append(point.tokens)

    def of_points(self, points: Sequence[Point]) -> Columns:
        """``kept`` is 0 of updates that were made and lost again."""
        return {
            "update": [point.update for point in points],
            "hours": [digits((point.time - self._begin) / HOUR) for point in points],
            "tokens": [digits(point.tokens) for point in points],
            "start": [point.start for point in points],
            "kept": [int(point.is_kept) for point in points],
        }

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Of events that were kept."""
        found = [self.at(row["update"], row["time"]) for row in rows]
        return {
            **{axis: [place[axis] for place in found] for axis in ("update", "hours", "tokens")},
            "start": [row.get("start") for row in rows],
            "kept": [1] * len(rows),
        }

    def at(self, update: Optional[int], time: float) -> dict[str, Any]:
        """Of one thing; without an update it stands in hours only."""
        tokens = None if update is None else digits(self._tokens_at(update))
        return {"update": update, "hours": digits((time - self._begin) / HOUR), "tokens": tokens}

    def _tokens_at(self, update: int) -> float:
        updates, tokens = self._updates, self._tokens
        if len(updates) == 1 or update <= updates[0]:
            return 0.0
        after = min(bisect_left(updates, update), len(updates) - 1)
        first, last = updates[after - 1], updates[after]
        pace = (tokens[after] - tokens[after - 1]) / (last - first)
        return tokens[after] + pace * (update - last)


def digits(value: Any, times: float = 1) -> Optional[float]:
    """Seven digits that count, which no eye tells from all of them; None of what is no finite number."""
    number = seconds(value)
    scaled = None if number is None else seconds(number * times)
    return None if scaled is None else float(f"{scaled:.7g}")
