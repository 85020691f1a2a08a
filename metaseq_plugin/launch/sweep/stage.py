"""One stage of a sweep file as runs: the recipe, the fixed values and what varies, put together for every point.

What counts more comes later: the baseline's recipe; ``options`` of the whole file; those of the stage; the point's
values. A run that starts from another one has the base, the resources and the survival of that one, where they
varied there and the stage has none; its architecture is read from the checkpoint, by ``fairseq-train``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import baseline
from metaseq_plugin.launch.spec import Launch, RunSpec, Value
from metaseq_plugin.launch.sweep.marked import Marked, remedy_for
from metaseq_plugin.launch.sweep.names import follower_name, name_of
from metaseq_plugin.launch.sweep.points import SECTIONS, Point, read_points, without_repeats
from metaseq_plugin.launch.sweep.resources import RESOURCES, SURVIVAL, read_resources, read_survival
from metaseq_plugin.launch.sweep.sweep import Run, Stage

SHARED = ("base", "data", "options", "resources", "survival")  # of the file, and of each stage
OWN = (*SHARED, *SECTIONS)
CHECKPOINT = "checkpoint_last.pt"
FINETUNE = "finetune-from-model"
TABLES: Mapping[str, Mapping[str, Callable[[Marked], Any]]] = {
    "resources": RESOURCES,
    "survival": SURVIVAL,
}
# Options of fairseq-train that stand elsewhere -> what to do.
ELSEWHERE = {
    "save-dir": "Set `save_dir` of the file.",
    "user-dir": "Leave it out: it is metaseq_plugin.",
    "restore-file": "Set `survival.restore_file`.",
}

Entries = Mapping[str, Marked]


@dataclass(frozen=True)
class Parent:
    """The run that another starts from.

    Attributes:
        folder: its own, or words in its place while it is not known which is best.
    """

    run: Run
    folder: str
    checkpoint: str = CHECKPOINT

    def inherited(self, table: str) -> Entries:
        """What varied of ``resources`` or ``survival``."""
        return point_entries(self.run.point, table)


@dataclass(frozen=True)
class Plan:
    """How runs of a stage are made.

    Attributes:
        shared, own: the entries of the file, and of the stage: the same where there are no stages.
        folder: of the stage.
        after: the folders that all runs wait for.
    """

    shared: Entries
    own: Entries
    folder: Path
    after: Sequence[Path] = field(default_factory=list)

    def entries(self, key: str, *known: str) -> tuple[Entries, Entries]:
        """Below ``key``, of the file and of the stage."""
        shared, own = (
            top[key].fields(*known) if key in top else {} for top in (self.shared, self.own)
        )
        return shared, own

    def one(self, key: str) -> Optional[Marked]:
        return self.own.get(key, self.shared.get(key))

    def check_keys(self, varying: Mapping[str, str]) -> None:
        """Refuse keys that no run can have; names of options are checked later."""
        for entries in self.entries("options"):
            for key, entry in entries.items():
                refuse_key(key, entry.place)
        for key, place in varying.items():
            table, dot, name = key.partition(".")
            if not dot:
                refuse_key(key, place)
            elif table not in TABLES or name not in TABLES[table] or name == "slurm":
                known = [f"{t}.{n}" for t, names in TABLES.items() for n in names if n != "slurm"]
                raise UserError(
                    f"{place}: `{key}` must be a known key, but is unknown. {remedy_for(key, known)}"
                )

    def runs(self, points: Sequence[Point], parents: Sequence[Parent]) -> Iterator[Run]:
        """A run for every point; where there are ``parents``, for each of them."""
        for parent in parents or [None]:
            for point in points:
                try:
                    yield self.run(point, parent)
                except UserError as error:
                    if str(error).startswith(str(point.place)):
                        raise
                    where = f"{point.place}: " if point.place else ""
                    raise UserError(f"{where}{point.shown}: {error}") from None

    def run(self, point: Point, parent: Optional[Parent]) -> Run:
        resources = read_resources(self.table("resources", point, parent))
        survival = read_survival(self.table("survival", point, parent))
        base = self.base(point, parent)
        options = self.options(point)
        if parent is not None:
            options[FINETUNE] = f"{parent.folder}/{parent.checkpoint}"
        names_arch = "arch" in options
        if base is not None:
            options = baseline(base).options(resources.num_ranks, options)
        if parent is not None and not names_arch:
            options.pop("arch", None)
        name = name_of(point.values)
        if parent is not None and parent.run.save_dir == Path(parent.folder):
            name = follower_name(parent.run.name, name)
        data = point.values.get("data", None if (fixed := self.one("data")) is None else fixed.text())
        spec = RunSpec(str(data), self.folder / name, options, name)
        before = self.after if parent is None else [parent.run.save_dir]
        return Run(Launch(spec, resources, survival), point, base, before)
