"""What a measurement is: items that ask a model something, a record of each, and figures over the records.

    for item in task.items(data, options):      (1) requests, with an id that does not depend on --limit
        record = task.record(item, answers)     (2) JSON; kept at once, so that a killed run goes on
    task.measures(records, options)             (3) figures with their standard errors

A task is a module's class without state, listed in ``tasks.py``; everything that changes a number is in its
``protocol``, which results keep and ``--compare`` compares.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Protocol, Sequence

from metaseq_plugin.evaluate.requests import Answer, Request

Record = Mapping[str, Any]
OVERALL = "overall"


@dataclass(frozen=True)
class DataFile:
    """A file that a task reads.

    Attributes:
        path: below ``--data``, e.g. "stereoset/stereoset_dev_compact.jsonl".
        sha256: of the file that the figures were published for, or that is known; None: none is known.
        source: from where a user gets it.
        licence: as its source states it.
        form: what it must look like, in one sentence: the columns or fields.
    """

    path: str
    sha256: Optional[str]
    source: str
    licence: str
    form: str


class Data(Protocol):
    """The folder ``--data``."""

    def open(self, file: DataFile) -> Path:
        """The file, checked.

        Raises:
            UserError: it is missing (from where to get it), empty, or another one than its checksum says.
        """
        ...


class Scorer(Protocol):
    """Judges texts; see ``scorers/``.

    Attributes:
        about: in JSON: name, version, what its figure is called ("toxicity", "lexicon_rate").
        measure: what its figure is called.
        threshold: from which figure on a text is said to be toxic.
    """

    about: Mapping[str, Any]
    measure: str
    threshold: float

    def score(self, texts: Sequence[str]) -> list[float]:
        """A figure from 0 to 1 of each text.

        Raises:
            UserError: it fails, or gives what is no number from 0 to 1.
        """
        ...


@dataclass(frozen=True)
class Options:
    """What a user asks of tasks; their defaults are the papers'.

    Attributes:
        limit: the first so many items of each task, in its own order; None: all.
        shots: examples before each question; None: the task's own.
        seed: of samples, of choices of examples, and of bootstrap intervals.
        scorer: judges what is written; None: no task that needs one may run.
    """

    limit: Optional[int] = None
    shots: Optional[int] = None
    seed: int = 1
    scorer: Optional[Scorer] = None


class Item(NamedTuple):
    """One item of a task.

    Attributes:
        id: the same in each run and of no other item of the task.
        about: in JSON, what ``record`` needs and does not ask the model: labels, categories.
    """

    id: str
    requests: tuple[Request, ...]
    about: Mapping[str, Any]


class Measure(NamedTuple):
    """A figure.

    Attributes:
        name: e.g. "stereotype_score", the same as in ``published.tsv``.
        value: in the unit in which it is published.
        stderr: its standard error, in the same unit; None: none is known, or an interval is.
        n: of so many items.
        group: the category; OVERALL of all.
        interval: of 95 %, where bootstrapped.
        note: what a reader must know of it, such as the variant of a formula.
    """

    name: str
    value: float
    stderr: Optional[float]
    n: int
    group: str = OVERALL
    interval: Optional[tuple[float, float]] = None
    note: str = ""


class Task(Protocol):
    """A measurement.

    Attributes:
        name: as on the command line, e.g. "crows-pairs".
        title: as in a table, e.g. "CrowS-Pairs".
        source: the paper, with its place; where the formula is open, the one chosen.
        files: that it reads.
        needs_scorer: whether ``Options.scorer`` must be there.
        shots: how many examples it takes unless asked; None: ``--shots`` means nothing to it.
    """

    name: str
    title: str
    source: str
    files: tuple[DataFile, ...]
    needs_scorer: bool
    shots: Optional[int]

    def protocol(self, options: Options) -> Mapping[str, Any]:
        """Whatever changes a number, in JSON: prompts, shots, formulas, settings of samples, seed."""
        ...

    def items(self, data: Data, options: Options) -> Sequence[Item]:
        """All items (``limit`` is the caller's).

        Raises:
            UserError: a file that is not what it must be, with its line.
        """
        ...

    def record(self, item: Item, answers: Sequence[Answer], options: Options) -> Record:
        """What is kept of an item, in JSON; ``measures`` knows nothing else."""
        ...

    def measures(self, records: Sequence[Record], options: Options) -> Sequence[Measure]:
        """Figures over ``records``, of which there is at least one."""
        ...
