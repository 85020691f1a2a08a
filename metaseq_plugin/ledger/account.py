"""The account of a run: what a ledger comes to, as ``metaseq report``, the page and the chronicle show it.

    account = read_account(Path("runs/a"))         # read_account.py
    account.updates.kept, account.seconds["waiting"], account.numbers["co2e"]

The steps of ``read_account``:
(1) ``files.py`` reads the events; what is foreign is counted, what is missing is said in ``problems``;
(2) ``history.py`` makes starts of them, and stretches of updates that went on one from another;
(3) the lines of updates.jsonl pass through once, one at a time: ``curves.py`` thins them out, ``times.py`` sums
    them, for what was kept and for what was lost;
(4) ``totals.py`` multiplies and divides: tokens, operations, energy, carbon, each number with where it is from.

Every second between the first start and the last sign of life is in one of ``KINDS``, and every update that was made is
kept or lost.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, NamedTuple, Optional, Sequence

# What a second was spent on.
KINDS = (
    "starting",  # the first start, until its first update
    "computing",
    "waiting",  # for data
    "saving",
    "validating",
    "rewinding",  # going back to a checkpoint within a start
    "restarting",  # later starts, until their first update
    "idle",  # between the end of a start and the next one
    "lost",  # whatever was spent on updates that were lost
    "unknown",  # the ledger does not say
)
MEASURED, ESTIMATED, UNKNOWN = "measured", "estimated", "unknown"
ASSUMED, GIVEN = "assumed", "given"  # of settings: a default, or what somebody set
RUNNING, FINISHED, STOPPED, FAILED, KILLED = "running", "finished", "stopped", "failed", "killed"


class Number(NamedTuple):
    """A number and where it is from.

    Attributes:
        value: None where it is unknown.
        basis: MEASURED, ESTIMATED (with a rated power, an average, a formula) or UNKNOWN; ASSUMED or GIVEN.
        formula: with its inputs; or why it is unknown.
    """

    value: Optional[float]
    unit: str
    basis: str
    formula: str = ""


class Updates(NamedTuple):
    """Updates of a run: ``kept + lost == done``.

    Attributes:
        done: made by all starts together.
        kept: of these, what the run as it now is was made by.
        lost: made again, or never, because a start went on from an earlier checkpoint.
        unseen: updates that the run has behind it and that no start in the ledger has made, as where it began
            from a checkpoint of another run.
    """

    done: int
    kept: int
    lost: int
    unseen: int = 0


@dataclass(frozen=True)
class Start:
    """One start of a run, from its process's begin to its end.

    Attributes:
        number: 0 is the first.
        begin, end: seconds since 1970; ``end`` is the last sign of life.
        first_update: the update that it went on from; None: it has not come so far.
        last_update: the last one that it made.
        reason: why it ended, in words; "" of one that is running.
        state: RUNNING, FINISHED, STOPPED, FAILED or KILLED (without a word).
        seconds: by what they were spent on; a part of KINDS. Their sum is ``end - begin``, if the clock did not jump.
        changed: since the start before: {"options": {name: [before, now]}, …}.
        launch: what the launcher recorded of its end, where there was one.
    """

    number: int
    begin: float
    end: float
    first_update: Optional[int]
    last_update: int
    updates: Updates
    seconds: Mapping[str, float]
    reason: str = ""
    state: str = KILLED
    changed: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    launch: str = ""


class Point(NamedTuple):
    """A place on the curves: the mean of ``updates`` updates that end with ``update``; None: not known.

    Attributes:
        start: which start made it.
        is_kept: whether the run as it now is was made by it; curves of lost ones are branches.
        loss: bits a token, weighted by tokens; ``loss_low`` and ``loss_high`` of the lines that are in it.
        tokens: that the run had trained on when it had made ``update``; what was lost before does not count.
        tokens_per_second: of all ranks.
        norms: as logged, of the last line that has some.
    """

    update: int
    updates: int
    time: float
    start: int
    is_kept: bool
    loss: Optional[float] = None
    loss_low: Optional[float] = None
    loss_high: Optional[float] = None
    gnorm: Optional[float] = None
    gnorm_high: Optional[float] = None
    clip: Optional[float] = None
    lr: Optional[float] = None
    loss_scale: Optional[float] = None
    noise_scale: Optional[float] = None
    tokens: Optional[float] = None
    tokens_per_second: Optional[float] = None
    tflops: Optional[float] = None
    mfu: Optional[float] = None
    hfu: Optional[float] = None
    watts: Optional[float] = None
    norms: Optional[Mapping[str, Any]] = None


@dataclass(frozen=True)
class Account:
    """All of it.

    Attributes:
        run: what it is called: the folder's name.
        path: the folder.
        state: of the last start; ``reason`` its end's.
        what: the fields of the last start: command, options, layout, versions, git, hardware, data, num_parameters …
        update: the run's last update. max_update: where its options set one.
        eta_seconds: until ``max_update`` at the recent speed; of a run that is running.
        tokens: learned from, in updates that were kept; ``tokens_lost`` in the others.
        begin, end: of the first start, and of the last one.
        seconds: by KINDS; all of them.
        wall_seconds: their sum.
        numbers: "loss", "ppl", "tokens_per_second", "tflops", "mfu", "hfu" (means over the time in updates),
            "model_flops", "model_flops_causal", "hardware_flops" (of all updates that were made), "device_hours",
            "device_kwh", "pue", "kwh", "intensity", "co2e".
        curve: what is kept and what was lost, in the order in which it was made.
        valid: validations of the updates that were kept: {"subset", "update", "loss", "ppl", "time", "seconds"}.
        events: of the ledger, of the launcher (with "of": "launch"), and "killed" for each start that could not write
            its end ("of": "reader"); by time.
        problems: a sentence each: what is missing, foreign or does not fit.
    """

    run: str
    path: str
    state: str
    reason: str
    what: Mapping[str, Any]
    update: int
    max_update: Optional[int]
    eta_seconds: Optional[float]
    updates: Updates
    tokens: int
    tokens_lost: int
    begin: float
    end: float
    starts: Sequence[Start]
    seconds: Mapping[str, float]
    numbers: Mapping[str, Number]
    curve: Sequence[Point]
    valid: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    problems: Sequence[str] = ()

    @property
    def wall_seconds(self) -> float:
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """Plain objects, lists and numbers, for ``--json`` and the page."""
        plain = asdict(self)
        plain["wall_seconds"] = self.wall_seconds
        plain["updates"] = self.updates._asdict()
        plain["numbers"] = {name: number._asdict() for name, number in self.numbers.items()}
        plain["curve"] = [point._asdict() for point in self.curve]
        for start, shape in zip(plain["starts"], self.starts, strict=True):
            start["updates"] = shape.updates._asdict()
        return plain
