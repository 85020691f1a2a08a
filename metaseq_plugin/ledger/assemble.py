"""Put an account together from what was read and summed.

    assembled(run, history, folded, events, launch_events, metered, settings, now, problems)

Each start gets its end, its updates and its seconds; between starts the run was idle. What does not fit is said.
"""

import itertools
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from metaseq_plugin.ledger.account import (
    FAILED,
    FINISHED,
    KILLED,
    KINDS,
    RUNNING,
    STOPPED,
    Account,
    Start,
    Updates,
)  # fmt: skip
from metaseq_plugin.ledger.curves import Curve
from metaseq_plugin.ledger.files import FORMAT
from metaseq_plugin.ledger.history import History, Told, whole
from metaseq_plugin.ledger.times import Times
from metaseq_plugin.ledger.totals import Metered, Settings, Totals, devices_of, numbers_of
from metaseq_plugin.storage.json_lines import Row

ALIVE_SECONDS = 60.0  # a run that was seen so lately is running
MAX_UPDATE = "optimization.max_update"
FINISHED_WORDS = ("finished", "nothing to do")  # with which the reason of an ``end`` begins
STOPPED_WORDS = "stopped by "
ENDED_BY_LAUNCHER = ("failed", "hang", "preempted", "saved_and_requeued", "stopped", "gave_up")
CLOCK_SECONDS = 1.0  # two clocks may differ by so much
LAUNCH = "launch"  # events "of" it


def assembled(
    run: Path,
    history: History,
    folded: "Tuple[Curve, Times, Totals]",
    events: Sequence[Row],
    launch_events: Sequence[Row],
    metered: Optional[Metered],
    settings: Settings,
    now: float,
    problems: List[str],
) -> Account:
    """The account; ``problems`` is added to."""
    curve, times, totals = folded
    starts = [
        start_of(told, history, times, launch_events, now) for told in history.starts.values()
    ]
    last = starts[-1]
    what = {**history.starts[last.number].of("start")}
    max_update = read_max_update(what)
    pace = totals.seconds_per_update()
    reached = history.update
    to_go = None if max_update is None or pace is None else (max_update - reached) * pace
    updates = total_updates(starts, reached)
    problems += faults(history, starts, events, updates)
    spans = [
        (devices_of(history.starts[start.number].of("start")), sum(start.seconds.values()))
        for start in starts
    ]
    return Account(
        run=run.absolute().name,
        path=str(run.absolute()),
        state=last.state,
        reason=last.reason,
        what={name: value for name, value in what.items() if name not in ("time", "kind", "start")},
        update=reached,
        max_update=max_update,
        eta_seconds=max(0.0, to_go) if to_go is not None and last.state == RUNNING else None,
        updates=updates,
        tokens=round(totals.tokens - totals.tokens_lost),
        tokens_lost=round(totals.tokens_lost),
        begin=starts[0].begin,
        end=last.end,
        starts=starts,
        seconds=all_seconds(starts),
        numbers=numbers_of(totals, what, metered, spans, settings, problems),
        curve=curve.points(),
        valid=[event for event in events if event["kind"] == "valid" and history.was_kept(event)],
        events=merged([*events, *kills(starts)], launch_events),
        problems=problems,
    )


def start_of(
    told: Told, history: History, times: Times, launch_events: Sequence[Row], now: float
) -> Start:
    stretches = [stretch for stretch in history.stretches if stretch.start == told.number]
    done, kept = sum(s.done for s in stretches), sum(s.kept for s in stretches)
    is_latest = told.number == max(history.starts)
    launch = "" if told.end is not None else launchers_word(told, history, launch_events)
    state, reason = standing(told, is_latest and abs(now - told.seen) < ALIVE_SECONDS, launch)
    changed = told.of("resume").get("changed")
    return Start(
        number=told.number,
        begin=told.begin,
        end=told.seen,
        first_update=told.first,
        last_update=stretches[-1].last if stretches else told.last or 0,
        updates=Updates(done, kept, done - kept),
        seconds=times.seconds_of(told),
        reason=reason,
        state=state,
        changed=changed if isinstance(changed, Mapping) else {},
        launch=launch,
    )


def standing(told: Told, is_alive: bool, launch: str) -> "Tuple[str, str]":
    """The state of a start, and why it ended."""
    if told.end is None:
        return (RUNNING, "") if is_alive else (KILLED, launch or "killed without a word")
    reason = str(told.end.get("reason", "for a reason that is not known"))
    if reason.startswith(FINISHED_WORDS):
        return FINISHED, reason
    return (STOPPED if reason.startswith(STOPPED_WORDS) else FAILED), reason


def launchers_word(told: Told, history: History, launch_events: Sequence[Row]) -> str:
    """What the launcher recorded of the end of a start that wrote none itself."""
    later = history.starts.get(told.number + 1)
    for event in launch_events:
        is_of_it = told.begin <= event["time"] and (later is None or event["time"] <= later.begin)
        if is_of_it and event["kind"] in ENDED_BY_LAUNCHER:
            kind, reason = event["kind"].replace("_", " "), event.get("reason")
            return f"{kind}: {reason}" if reason else kind
    return ""


def total_updates(starts: Sequence[Start], reached: int) -> Updates:
    done = sum(start.updates.done for start in starts)
    kept = sum(start.updates.kept for start in starts)
    return Updates(done, kept, done - kept, unseen=reached - kept)


def read_max_update(what: Mapping[str, Any]) -> Optional[int]:
    options = what.get("options")
    found = whole(options.get(MAX_UPDATE)) if isinstance(options, Mapping) else None
    return found if found is not None and found > 0 else None


def all_seconds(starts: Sequence[Start]) -> Dict[str, float]:
    """By KINDS, what was between the starts included."""
    found = dict.fromkeys(KINDS, 0.0)
    for start in starts:
        for kind, spent in start.seconds.items():
            found[kind] += spent
    for before, after in itertools.pairwise(starts):
        found["idle"] += max(0.0, after.begin - before.end)
    return found


def kills(starts: Sequence[Start]) -> List[Row]:
    """The ends that nobody was left to write."""
    return [
        {
            "time": start.end, "kind": KILLED, "update": start.last_update, "start": start.number,
            "reason": start.reason, "of": "reader",
        }
        for start in starts
        if start.state == KILLED
    ]  # fmt: skip


def merged(events: Sequence[Row], launch_events: Sequence[Row]) -> List[Row]:
    """Both, by time; those of one file stay in its order where clocks agree."""
    ours = [*events, *({**event, "of": LAUNCH} for event in launch_events)]
    return sorted(ours, key=lambda event: float(event["time"]))


def faults(
    history: History, starts: Sequence[Start], events: Sequence[Row], updates: Updates
) -> List[str]:
    """What does not fit, or is not there, a sentence each."""
    said = []
    formats = [whole(event.get("format"), FORMAT) or FORMAT for event in events]
    if max(formats, default=FORMAT) > FORMAT:
        said.append(
            f"The ledger is of format {max(formats)}, and this version knows {FORMAT}: some of it may be "
            "misread. Look with the metaseq-plugin that wrote it, or a newer one."
        )
    for event in events:
        if event["kind"] == "missing":
            said.append(
                f"{event.get('lines', 'Some')} lines could not be written ({event.get('reason')})."
            )
    for before, after in itertools.pairwise(starts):
        if after.begin < before.end - CLOCK_SECONDS:
            said.append(
                f"Start {after.number} begins {before.end - after.begin:.0f} s before start "
                f"{before.number} ends: a clock was set back."
            )
        if after.number > before.number + 1:
            said.append(
                f"Of the starts between {before.number} and {after.number} nothing is known."
            )
    for start in starts:
        end = history.starts[start.number].end or {}
        if whole(end.get("done"), start.updates.done) != start.updates.done:
            said.append(
                f"Start {start.number} counted {end['done']} updates, but its numbers and events tell of "
                f"{start.updates.done}."
            )
    if updates.unseen:
        said.append(
            f"{updates.unseen:,} updates behind the run were made by no start of this ledger."
        )
    return said
