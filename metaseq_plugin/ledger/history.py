"""The starts of a run, and which of their updates the run as it now is was made by.

    history = read_history(events, tally)
    history.stretches[2].cut          # 1200: of the third stretch, updates above were made again, or never

A stretch is updates that were made one after another: a start is one, and one more for each rewind within it. Each goes
on from an earlier one, its parent: the latest that saved at the update where it begins, or, where no event tells of a
save, the latest that came so far. The run as it now is was made by the last stretch that made anything, its parent,
and so on: each up to where the next one begins. What they made above it, and what the others made, is lost.

    done = last - first            kept = min(last, cut) - first            cut = the first of the next one

so kept + lost is done by construction, and no update is kept twice. How far a start came is known from its ``end``; of
one that was killed from ``before`` of the next start, of the latest one from the tally, and where all of these are gone
or older, as where the machine went down, from the last save or line that it wrote.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set

from metaseq_plugin.ledger.tally import ACCOUNTS, Tally
from metaseq_plugin.storage.json_lines import Row


@dataclass
class Stretch:
    """Updates ``first + 1`` to ``last`` of one start.

    Attributes:
        since: when it began, in seconds since 1970.
        saved: the updates at which it saved.
        cut: updates above it are lost; ``History`` finds it.
        is_open: whether ``last`` is only the most that has been heard of.
    """

    start: int
    first: int
    since: float
    saved: Set[int] = field(default_factory=set)
    last: int = 0
    cut: float = math.inf
    is_open: bool = True

    def __post_init__(self) -> None:
        self.last = max(self.last, self.first)

    @property
    def done(self) -> int:
        return self.last - self.first

    @property
    def kept(self) -> int:
        return max(0, int(min(self.last, self.cut)) - self.first)

    def hear(self, update: int) -> None:
        """That it came as far as ``update``, where nobody knows for sure."""
        if self.is_open:
            self.last = max(self.last, update)

    def share_lost(self, first: float, last: float) -> float:
        """Of the updates ``first + 1`` to ``last``, the share that is lost: 0 to 1."""
        if last <= first:
            return float(last > self.cut)
        return min(1.0, max(0.0, (last - self.cut) / (last - first)))


@dataclass
class Told:
    """What the events say of one start.

    Attributes:
        events: those of it, in order.
        accounts: seconds by what they were spent on; None where nobody knows.
        seen: the last sign of life; from events only, it may be early.
        end: the event; None of one that was killed, and of one that is running.
    """

    number: int
    begin: float
    seen: float
    events: List[Row] = field(default_factory=list)
    first: Optional[int] = None
    last: Optional[int] = None
    accounts: Optional[Dict[str, float]] = None
    end: Optional[Row] = None

    def of(self, kind: str) -> Row:
        """The last event of a kind; empty where there is none."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), {})


@dataclass
class History:
    """All starts by number, and their stretches in the order in which they were made; which of these are kept."""

    starts: Dict[int, Told]
    stretches: List[Stretch]

    def stretch_of(self, start: int, when: float) -> Optional[Stretch]:
        """The stretch of a line or an event; None of a start that no event tells of."""
        found = None
        for stretch in self._by_start.get(start, ()):
            if found is None or stretch.since <= when:
                found = stretch
        return found

    def was_kept(self, event: Row) -> bool:
        """Whether the update of an event is one of the run as it now is."""
        start, update = whole(event.get("start")), whole(event.get("update"))
        if start is None or update is None:
            return False
        stretch = self.stretch_of(start, event["time"])
        return stretch is not None and update <= stretch.cut

    def __post_init__(self) -> None:
        self._by_start: Dict[int, List[Stretch]] = {}
        for stretch in self.stretches:
            self._by_start.setdefault(stretch.start, []).append(stretch)
        self.link()

    def link(self) -> None:
        """Find out what is kept, by how far each stretch is known to have come."""
        for stretch in self.stretches:
            stretch.cut = stretch.first
        cut = math.inf
        here = next((s for s in reversed(self.stretches) if s.done), None)
        while here is not None:
            place = self.stretches.index(here)
            here.cut, cut = cut, here.first
            here = parent(self.stretches[:place], here.first)

    @property
    def update(self) -> int:
        """The last update of the run as it now is."""
        return next((stretch.last for stretch in reversed(self.stretches) if stretch.done), 0)


def parent(earlier: Sequence[Stretch], first: int) -> Optional[Stretch]:
    """Which of ``earlier`` stretches one that begins at ``first`` goes on from."""
    reached = [stretch for stretch in earlier if stretch.first < first <= stretch.last]
    saved = [stretch for stretch in reached if first in stretch.saved]
    found = saved or reached
    return found[-1] if found else None


def read_history(
    events: Sequence[Row], tally: Optional[Tally], more: Iterable[Row] = ()
) -> History:
    """Starts and stretches.

    Args:
        events: of the ledger, in order.
        tally: of the latest start.
        more: the first line of updates of each start that no event tells of.
    """
    starts: Dict[int, Told] = {}
    for event in [*events, *more]:
        number, when = whole(event.get("start")), float(event["time"])
        if number is None or event.get("kind") == "note":
            continue
        told = starts.setdefault(number, Told(number, when, when))
        told.seen = max(told.seen, when)
        if "kind" in event:
            told.events.append(event)
        elif told.first is None:
            told.first = event["update"] - event["updates"]
    if tally is not None:  # where even its ``start`` could not be written
        starts.setdefault(tally.start, Told(tally.start, tally.began, tally.seen))
    starts = {number: starts[number] for number in sorted(starts)}
    for told in starts.values():
        complete(told, starts.get(told.number + 1), tally)
    stretches = [stretch for told in starts.values() for stretch in stretches_of(told)]
    return History(starts, stretches)


def complete(told: Told, later: Optional[Told], tally: Optional[Tally]) -> None:
    """Fill in what the events, the next start or the tally say of a start."""
    began = seconds(told.of("start").get("began"))
    told.begin = told.begin if began is None else began
    begun = whole(told.of("ready").get("first_update"), whole(told.of("resume").get("update")))
    told.first = told.first if begun is None else begun
    told.end = told.of("end") or None
    before = later.of("start").get("before") if later is not None else None
    word: Row = told.end or {}
    if not word and isinstance(before, dict) and before.get("start") == told.number:
        word = before
    if not word and later is None and tally is not None and tally.start == told.number:
        word = {"update": tally.update, "done": tally.done, "seen": tally.seen, "began": tally.began,
                "accounts": tally.seconds_by_account}  # fmt: skip
        if told.first is None and tally.first_update >= 0:
            told.first = tally.first_update
    told.last = whole(word.get("update"))
    told.accounts = read_accounts(word.get("accounts"))
    if told.accounts is not None:
        told.seen = told.begin + sum(told.accounts.values())
    else:
        told.seen = max(told.seen, seconds(word.get("seen"), told.seen) or 0.0)
    if told.first is None and told.last is not None and (whole(word.get("done"), 0) or 0) > 0:
        told.first = max(0, told.last - word["done"])


def read_accounts(value: Any) -> Optional[Dict[str, float]]:
    """Seconds by ``ACCOUNTS``, from what an event says; None where it says nothing of use."""
    if not isinstance(value, Mapping):
        return None
    found = {name: seconds(value.get(name), 0.0) or 0.0 for name in ACCOUNTS}
    return {name: max(0.0, spent) for name, spent in found.items()}


def stretches_of(told: Told) -> List[Stretch]:
    """One, and one more for each rewind; none of a start that has not come to its first update."""
    if told.first is None:
        return []
    stretches = [Stretch(told.number, told.first, told.begin)]
    for event in told.events:
        here = stretches[-1]
        update, to = whole(event.get("update")), whole(event.get("to"))
        if event["kind"] == "rewind" and to is not None:
            here.last = max(here.first, whole(event.get("from"), here.last) or 0)
            here.is_open = False
            stretches.append(Stretch(told.number, to, float(event["time"])))
        elif update is not None:
            here.hear(update)
            if event["kind"] == "save":
                here.saved.add(update)
    if told.last is not None:
        here = stretches[-1]
        # The tally of a machine that went down may be older than what it had written to the disk.
        here.last, here.is_open = max(here.first, told.last, *here.saved), told.end is None
    return stretches


def whole(value: Any, otherwise: Optional[int] = None) -> Optional[int]:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole else otherwise


def seconds(value: Any, otherwise: Optional[float] = None) -> Optional[float]:
    """A finite number, as a float."""
    if type(value) is float:  # nearly all are, of millions
        return value if -math.inf < value < math.inf else otherwise
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < math.inf else otherwise
