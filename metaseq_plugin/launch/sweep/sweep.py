"""What a sweep file means: its stages, and in each the runs in order.

    sweep = read_sweep(Path("sweep.yaml"))
    sweep.launches()                 every run, as jobs and run folders need it
    sweep.stages[1].runs[0].parents  the run folders that must be finished before it starts

The steps: (1) the file is read, with places; (2) each stage gives its points (``points.py``) and a run for each
(``stage.py``); (3) options are checked against fairseq's, once for all; (4) no two runs may have one folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
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
        varies: the keys.
        after: the stage before this one, if any.
        start: "each": from a run of that stage each; "best": all from its best; None: from nothing.
        waits: why it cannot start yet; None: it can.
        repeated: how many points were there already.
    """

    name: str
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


def check_folders(sweep: Sweep) -> None:
    """Refuse two runs of one folder."""
    seen: dict[Path, Run] = {}
    for run in sweep.runs():
        other = seen.setdefault(run.save_dir, run)
        if other is not run:
            raise UserError(
                f"{run.point.place}: every run must have a name of its own, but {run.name} is that of two: "
                f"{other.point.shown} ({other.point.place}), and {run.point.shown} ({run.point.place}). "
                "Write values that differ in letters and digits."
            )
