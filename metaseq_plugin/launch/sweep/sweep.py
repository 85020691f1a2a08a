"""What a sweep file means: its stages, and in each the runs in order.

sweep = read_sweep(Path("sweep.yaml"))      reading.py
sweep.launches()                 every run, as jobs and run folders need it
sweep.stages[1].runs[0].parents  the run folders that must be finished before it starts
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence

from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.launch.sweep.points import Point

EACH, BEST = "each", "best"


@dataclass(frozen=True)
class Run:
    """One run of a stage.

    Attributes:
        point: the values that are its own.
        base: the baseline that it follows, if any.
        parents: the folders of the runs that must be finished before this one starts.
    """

    launch: Launch
    point: Point
    base: Optional[str]
    parents: Sequence[Path]

    @property
    def save_dir(self) -> Path:
        return self.launch.spec.save_dir

    @property
    def name(self) -> str:
        return self.launch.spec.name


@dataclass(frozen=True)
class Stage:
    """Runs that differ in what varies.

    Attributes:
        name: none where the file has no stages.
        folder: of its run folders.
        varies: the keys.
        after: the stage before this one, if any.
        start: "each": from a run of that stage each; "best": all from its best; None: from nothing.
        waits: why it cannot start yet; None: it can.
        repeated: how many points were there already.
    """

    name: str
    folder: Path
    runs: Sequence[Run]
    varies: Sequence[str]
    after: Optional[str] = None
    start: Optional[str] = None
    waits: Optional[str] = None
    repeated: int = 0


@dataclass(frozen=True)
class Sweep:
    """A file's stages, each after the one that it comes after."""

    path: Path
    stages: Sequence[Stage]

    def runs(self) -> Iterator[Run]:
        for stage in self.stages:
            yield from stage.runs

    def launches(self) -> list[Launch]:
        """Every run, stage by stage."""
        return [run.launch for run in self.runs()]
