"""One stage of a sweep file as runs: the recipe, the fixed values and what varies, put together for every point.

What counts more comes later: the baseline's recipe; ``options`` of the whole file; those of the stage; the point's
values. A run that starts from another one has the base, the resources and the survival of that one, where they
varied there and the stage has none; its architecture is read from the checkpoint, by ``fairseq-train``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import baseline
from metaseq_plugin.launch.data_folder import data_options
from metaseq_plugin.launch.spec import Launch, RunSpec, Value
from metaseq_plugin.launch.sweep.marked import Marked, remedy_for
from metaseq_plugin.launch.sweep.names import follower_name, name_of
from metaseq_plugin.launch.sweep.points import Point
from metaseq_plugin.launch.sweep.resources import RESOURCES, SURVIVAL, read_resources, read_survival
from metaseq_plugin.launch.sweep.sweep import Run

FINETUNE = "finetune-from-model"
# Options of fairseq-train that stand elsewhere -> what to do.
ELSEWHERE = {
    "save-dir": "Set `save_dir` of the file.",
    "user-dir": "Leave it out: it is metaseq_plugin.",
    "restore-file": "Set `survival.restore_file`.",
}
TABLES: Mapping[str, Mapping[str, Callable[[Marked], Any]]] = {
    "resources": RESOURCES,
    "survival": SURVIVAL,
}
VARIABLE = [f"{t}.{name}" for t, names in TABLES.items() for name in names if name != "slurm"]

Entries = Mapping[str, Marked]


@dataclass(frozen=True)
class Parent:
    """The run that others start from.

    Attributes:
        checkpoint: the file, or words in its place while it is not known which run is the best.
        is_named: whether their names begin with its.
    """

    run: Run
    checkpoint: str
    is_named: bool


@dataclass(frozen=True)
class Recipe:
    """How the runs of a stage are made.

    Attributes:
        shared: the entries of the file.
        own: those of the stage; the file's where it has no stages.
        folder: of all its runs.
        after: the folders that all its runs wait for.
    """

    shared: Entries
    own: Entries
    folder: Path
    after: Sequence[Path]

    def runs(self, points: Sequence[Point], parents: Sequence[Optional[Parent]]) -> Iterator[Run]:
        """A run for every point, for each of ``parents``."""
        for parent in parents:
            for point in points:
                yield self.run(point, parent)

    def run(self, point: Point, parent: Optional[Parent]) -> Run:
        resources = read_resources(self.table("resources", point, parent))
        survival = read_survival(self.table("survival", point, parent))
        base, data = self.base(point, parent), self.data(point)
        options = self.options(point)
        names_arch = "arch" in options
        if parent is not None:
            options[FINETUNE] = parent.checkpoint
        if base is not None:
            try:
                recipe = baseline(base).options(resources.num_ranks, options)
                options = {**data_options(data), **recipe}
            except UserError as error:
                raise UserError(f"{point.place}: ({point.shown}) {error}") from None
        if parent is not None and not names_arch:
            options.pop("arch", None)
        name = name_of(point.values)
        if parent is not None and parent.is_named:
            name = follower_name(parent.run.name, name)
        spec = RunSpec(data, self.folder / name, options, name)
        before = [parent.run.save_dir] if parent is not None and parent.is_named else self.after
        return Run(Launch(spec, resources, survival), point, base, before)

    def options(self, point: Point) -> dict[str, Value]:
        """The options of the file, of the stage and of the point; none of the recipe."""
        fixed = {key: entry.plain() for top in self.below("options") for key, entry in top.items()}
        varied = {key: value for key, value in point.values.items() if is_option(key)}
        return {**fixed, **varied}

    def table(self, name: str, point: Point, parent: Optional[Parent]) -> Entries:
        """The entries of ``resources`` or ``survival``."""
        shared, own = self.below(name, *TABLES[name])
        inherited = {} if parent is None else point_entries(parent.run.point, name)
        return {**shared, **inherited, **own, **point_entries(point, name)}

    def base(self, point: Point, parent: Optional[Parent]) -> Optional[str]:
        """The name of the baseline; the value null takes that of the file away."""
        if "base" in point.values:
            return None if (value := point.values["base"]) is None else str(value)
        if "base" not in self.own and parent is not None and "base" in parent.run.point.values:
            return parent.run.base
        entry = self.one("base")
        return None if entry is None or entry.content is None else entry.text()

    def data(self, point: Point) -> str:
        if "data" in point.values:
            return str(point.values["data"])
        entry = self.one("data")
        if entry is None:
            raise UserError(f"{point.place}: the sweep must have `data`, but has none. Write `data: FOLDER`.")  # fmt: skip
        return entry.text()

    def one(self, key: str) -> Optional[Marked]:
        """The stage's entry, else the file's."""
        return self.own.get(key, self.shared.get(key))

    def below(self, key: str, *known: str) -> tuple[Entries, Entries]:
        """The entries below ``key`` of the file, and those of the stage."""
        shared, own = (
            top[key].fields(*known) if key in top else {} for top in (self.shared, self.own)
        )
        return shared, own

    def check_keys(self, varying: Mapping[str, str], starts: bool) -> dict[str, str]:
        """Refuse keys that no run can have; names of options are left to ``options.py``.

        Args:
            varying: key -> place.
            starts: the runs start from others.

        Returns:
            every key's place.
        """
        places = {key: entry.place for top in self.below("options") for key, entry in top.items()}
        for key in varying:
            if "." in key and key not in VARIABLE:
                raise refused_key(key, varying[key], remedy_for(key, VARIABLE))
        options = {**places, **{key: place for key, place in varying.items() if is_option(key)}}
        for key, place in options.items():
            if key in ELSEWHERE:
                raise refused_key(key, place, ELSEWHERE[key])
            if key == FINETUNE and starts:
                raise refused_key(key, place, "Leave it out where `start` is there.")
            for table, names in TABLES.items():
                if key in names:
                    raise refused_key(key, place, f"Set `{table}.{key}`.")
        return {**places, **varying}


def refused_key(key: str, place: str, remedy: str) -> UserError:
    return UserError(
        f"{place}: `{key}` must be an option of fairseq-train, but is none here. {remedy}"
    )


def is_option(key: str) -> bool:
    return "." not in key and key not in ("base", "data")


def point_entries(point: Point, table: str) -> Entries:
    """What ``point`` says of ``resources`` or ``survival``."""
    head = f"{table}."
    return {
        key.removeprefix(head): Marked(value, point.place, key)
        for key, value in point.values.items()
        if key.startswith(head)
    }
