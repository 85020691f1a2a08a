"""Progress lines ask how long an epoch is each time: a stream learns it on its way.

fairseq asks once, at the epoch's beginning, and its lines would count past an estimate: ``7 / 6``.
"""

import functools
from typing import Any, Callable


def ask_at_every_line(progress_bar: Any) -> None:
    for bar in (progress_bar.SimpleProgressBar, progress_bar.JsonProgressBar):
        bar.log = asking_first(bar.log)


def asking_first(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def log(self: Any, *args: Any, **named: Any) -> None:
        self.size = len(self.iterable)
        original(self, *args, **named)

    return log
