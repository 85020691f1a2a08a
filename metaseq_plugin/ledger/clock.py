"""Where the time of a start goes, and how far it is: every moment counts to one account, kept in the tally.

    with Clock(TallyFile(path), start=0, began=…) as clock:
        clock.switch("computing")
        with clock.within("saving"):
            …
        clock.made(update=17)

A thread writes the tally every BEAT_SECONDS, so that a start that is killed is known to that.
"""

import threading
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator

from metaseq_plugin.ledger.tally import ACCOUNTS, Tally, TallyFile

BEAT_SECONDS = 0.5


class Clock:
    """Starts in the account "starting", at ``began`` (seconds since 1970, of the process)."""

    def __init__(self, file: TallyFile, start: int, began: float) -> None:
        self._file = file
        self._tally = Tally(start, began=began)
        # Of the monotonic clock: the wall's may be set while the run goes on.
        self._began = time.monotonic() - max(0.0, time.time() - began)
        self._since = self._began
        self._account = 0
        self._seconds = [0.0] * len(ACCOUNTS)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ledger", daemon=True)

    def __enter__(self) -> "Clock":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._file.close()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._write()

    @property
    def start(self) -> int:
        return self._tally.start

    @property
    def update(self) -> int:
        """The run's updates."""
        return self._tally.update

    @property
    def done(self) -> int:
        """The updates that this start has made."""
        return self._tally.done

    @property
    def seconds(self) -> float:
        """Since the process started."""
        return time.monotonic() - self._began

    @property
    def account(self) -> str:
        return ACCOUNTS[self._account]

    def switch(self, account: str) -> str:
        """From now on, time counts to ``account``; the one before."""
        with self._lock:
            before = self.account
            now = time.monotonic()
            self._seconds[self._account] += now - self._since
            self._since, self._account = now, ACCOUNTS.index(account)
        return before

    @contextmanager
    def within(self, account: str) -> Iterator[None]:
        """The block's time counts to ``account``; behind it, to the one before."""
        before = self.switch(account)
        try:
            yield
        finally:
            self.switch(before)

    def seconds_by_account(self) -> Dict[str, float]:
        """Until now; their sum is ``seconds``."""
        self.switch(self.account)
        return dict(zip(ACCOUNTS, self._seconds, strict=True))

    def begins_at(self, update: int) -> None:
        """The run goes on from ``update``."""
        self._write(first_update=update, update=update)

    def goes_on_from(self, update: int) -> None:
        """The run has gone back to ``update``."""
        self._write(update=update)

    def made(self, update: int) -> None:
        """One more update was made, or gone past as a spike; the run's updates are ``update`` now."""
        self._write(update=update, done=self.done + 1)

    def unwritten(self, lines: int) -> None:
        """So many lines of the ledger could not be written."""
        self._write(unwritten=lines)

    def ended(self) -> None:
        """The run's ``end`` is written."""
        self._write(has_ended=1)

    def _write(self, **changes: int) -> None:
        with self._lock:
            now = time.monotonic()
            seconds = list(self._seconds)
            seconds[self._account] += now - self._since
            seen = self._tally.began + now - self._began
            self._tally = self._tally._replace(seen=seen, accounts=tuple(seconds), **changes)
            self._file.write(self._tally)
