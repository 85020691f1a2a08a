"""One stage of a sweep file as runs: the recipe, the fixed values and what varies, put together for every point.

What counts more comes later: the baseline's recipe; ``options`` of the whole file; those of the stage; the point's
values. A run that starts from another one has the base, the resources and the survival of that one, where they
varied there and the stage has none; its architecture is read from the checkpoint, by ``fairseq-train``.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import baseline
from metaseq_plugin.launch.data_folder import data_options
from metaseq_plugin.launch.fairseq_options import check_options
from metaseq_plugin.launch.recipe import ON_CPU, recipe
from metaseq_plugin.launch.spec import Launch, Resources, RunSpec, Value
from metaseq_plugin.launch.sweep.marked import Marked, SweepError, remedy_for
from metaseq_plugin.launch.sweep.names import follower_name, name_of
from metaseq_plugin.launch.sweep.points import Point
from metaseq_plugin.launch.sweep.resources import RESOURCES, SURVIVAL, read_resources, read_survival
from metaseq_plugin.launch.sweep.sweep import Run
from metaseq_plugin.sizes import ARCH

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
Change = Callable[[Launch], Launch]


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
        places: of every option that the file names.
        change: what counts more than the file: of a command line.
    """

    shared: Entries
    own: Entries
    folder: Path
    after: Sequence[Path]
    places: Mapping[str, str]
    change: Change

    def runs(self, points: Sequence[Point], parents: Sequence[Optional[Parent]]) -> Iterator[Run]:
        """A run for every point, for each of ``parents``."""
        for parent in parents:
            for point in points:
                yield self.run(point, parent)

    def run(self, point: Point, parent: Optional[Parent]) -> Run:
        name = name_of(point.values)
        is_named = parent is not None and parent.is_named
        if parent is not None and is_named:
            name = follower_name(parent.run.name, name)
        base = self.base(point, parent)
        try:
            launch = self.launch(point, parent, base)
        except SweepError:
            raise
        except UserError as error:
            raise self.located(error, point) from None
        spec = replace(launch.spec, save_dir=self.folder / name, name=name)
        before = [parent.run.save_dir] if parent is not None and is_named else self.after
        return Run(replace(launch, spec=spec), point, base, before)

    def launch(self, point: Point, parent: Optional[Parent], base: Optional[str]) -> Launch:
        """What a point asks for, under no name yet."""
        data, options = self.data(point), self.options(point)
        takes_arch = parent is not None and "arch" not in options
        if parent is not None:
            options[FINETUNE] = parent.checkpoint
        launch = self.change(
            Launch(
                RunSpec(data, self.folder, options),
                read_resources(self.table("resources", point, parent), point.place),
                read_survival(self.table("survival", point, parent)),
            )
        )
        resources, survival = launch.resources, launch.survival
        if base is None:
            checked = with_defaults(data, options, resources)
            check_options({"arch": ARCH, **checked} if takes_arch else checked)
            return replace(launch, spec=replace(launch.spec, options=checked))
        launch = recipe(baseline(base), data, self.folder, options, resources, survival)
        if takes_arch:
            kept = {key: value for key, value in launch.spec.options.items() if key != "arch"}
            launch = replace(launch, spec=replace(launch.spec, options=kept))
        return launch

    def located(self, error: UserError, point: Point) -> SweepError:
        """``error`` with the place of the option that each sentence is about, or else the point's."""
        sentences = []
        for sentence in error.sentences:
            option = re.match(r"`--([^`]*)`", sentence)
            place = self.places.get(option[1] if option else "", point.place)
            sentences.append(f"{place}: ({point.shown}) {sentence}")
        return SweepError(*sentences)

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
            raise SweepError(f"{point.place}: the sweep must have `data`, but has none. Write `data: FOLDER`.")  # fmt: skip
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


def check_keys(
    options: Sequence[Entries], varying: Mapping[str, str], starts: bool
) -> dict[str, str]:
    """Refuse keys that no run can have; names of options are checked with each run.

    Args:
        options: those of the file and of the stage.
        varying: key -> place.
        starts: the runs start from others.

    Returns:
        every option's place.
    """
    places = {key: entry.place for top in options for key, entry in top.items()}
    for key in varying:
        if "." in key and key not in VARIABLE:
            raise refused_key(key, varying[key], remedy_for(key, VARIABLE))
    places.update({key: place for key, place in varying.items() if "." not in key})
    for key, place in places.items():
        if key in ELSEWHERE:
            raise refused_key(key, place, ELSEWHERE[key])
        if key == FINETUNE and starts:
            raise refused_key(key, place, "Leave it out where `start` is there.")
        for table, names in TABLES.items():
            if key in names:
                raise refused_key(key, place, f"Set `{table}.{key}`.")
    return places


def with_defaults(
    data: str, options: Mapping[str, Value], resources: Resources
) -> dict[str, Value]:
    """``options`` without a recipe: what the data and the machine ask for goes before them."""
    asked = {} if "task" in options else data_options(data)
    return {**asked, **({} if resources.uses_gpus else ON_CPU), **options}


def refused_key(key: str, place: str, remedy: str) -> SweepError:
    return SweepError(
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
