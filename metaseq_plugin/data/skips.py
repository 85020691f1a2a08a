"""``--skip-batches``: data that a run is to go past, by the update it would go into.

    --skip-batches 100-200,160    before update 100, go past the batches of 101 updates;
                                  before update 160, past those of one

This is metaseq's reading: the numbers of updates do not move, the data do. What was skipped for an
update is part of the state until that update is done, so a restart neither repeats nor forgets it.

A run that goes back to before a spike (``--on-spike rewind``) goes past a window of its data in the same way:

    --skip-batches 40-41  and  the window of updates 38 to 42      before update 38, past those of 7
"""

import re
from typing import Dict, Iterable, List, Optional, Set, Tuple

from metaseq_plugin.compat.errors import UserError


def parse_skips(text: Optional[str]) -> Dict[int, int]:
    """Update → how many updates' batches to go past before it."""
    skips: Dict[int, int] = {}
    for part in (text or "").split(",") if text else []:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last or first in skips:
            raise UserError(
                f"`--skip-batches` must be updates or ranges of updates from 1, each beginning once, but "
                f"has '{part}'. Set for example 100-200,160."
            )
        skips[first] = last - first + 1
    return skips


Window = Tuple[int, int]  # the first and the last update whose batches are to be gone past


def past_windows(skips: Dict[int, int], windows: Iterable[Window]) -> Dict[int, int]:
    """``skips``, and also past the batches that updates of ``windows`` would have had, one window after the other.

    A window is one stretch of the data, with all that was gone past within it and right behind it. What windows
    before skip later on in the data now comes as many updates earlier; what the user skips keeps its update.
    """
    of_windows: Set[int] = set()
    for first, last in windows:
        length = last - first + 1
        moved = {first: length}
        for update, count in skips.items():
            if first <= update <= last + 1:
                update = first
            elif update > last and update in of_windows:
                update -= length
            moved[update] = moved.get(update, 0) + count
        of_windows = {u - length if u > last + 1 else min(u, first) for u in of_windows} | {first}
        skips = moved
    return skips


class Skips:
    """What is still to be skipped, given how many updates are done."""

    def __init__(self, skips: Dict[int, int], update: int = 0, done: int = 0) -> None:
        # ``update`` is next, and ``done`` was skipped for it.
        self.skips, self.update, self.done = skips, update, done

    def left(self, update: int) -> int:
        """How many updates' batches to go past before ``update``."""
        if update != self.update:
            self.update, self.done = update, 0
        return self.skips.get(update, 0) - self.done

    def state(self) -> List[int]:
        """What the constructor takes behind ``skips``."""
        return [self.update, self.done]
