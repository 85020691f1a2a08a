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
from metaseq_plugin.launch.resource_options import check_signal
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
        if parent is not None and parent.is_named:
            name = follower_name(parent.run.name, name)
        asked = self.change(
            Launch(
                RunSpec(self.data(point), self.folder / name, self.options(point), name),
                read_resources(self.table("resources", point, parent), point.place),
                read_survival(self.table("survival", point, parent)),
            )
        )
        base = self.base(point, parent)
        try:
            check_signal(asked.resources, asked.survival)
            options = self.resolved(asked, base, parent)
        except UserError as error:
            raise self.located(error, point) from None
        launch = replace(asked, spec=replace(asked.spec, options=options))
        before = self.after if parent is None else [parent.run.save_dir]
        return Run(launch, point, base, before)

    def resolved(
        self, asked: Launch, base: Optional[str], parent: Optional[Parent]
    ) -> dict[str, Value]:
        """All options of a run that asks for those of ``asked``, checked."""
        data, options = asked.spec.data, dict(asked.spec.options)
        takes_arch = parent is not None and "arch" not in options
        if parent is not None:
            options[FINETUNE] = parent.checkpoint
        if base is None:
            found = with_defaults(data, options, asked.resources)
            check_options({"arch": ARCH, **found} if takes_arch else found)
            return found
        row, save_dir = baseline(base), asked.spec.save_dir
        launch = recipe(row, data, save_dir, options, asked.resources, asked.survival)
        left_out = "arch" if takes_arch else None
        return {key: value for key, value in launch.spec.options.items() if key != left_out}

    def located(self, error: UserError, point: Point) -> SweepError:
        """``error`` with the place of the option that each sentence is about, or else the point's."""
        sentences = []
        for sentence in error.sentences:
            words = re.findall(r"--([\w-]+)|(?:A (base)line)", sentence)
            named = [option or base for option, base in words if (option or base) in self.places]
            place = self.places[named[0]] if named else point.place
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


def check_keys(tops: Sequence[Entries], varying: Mapping[str, str], starts: bool) -> dict[str, str]:
    """Refuse keys that no run can have; names of options are checked with each run.

    Args:
        tops: the entries of the file and of the stage.
        varying: key -> place.
        starts: the runs start from others.

    Returns:
        every option's place, and those of base and data.
    """
    for key in varying:
        if "." in key and key not in VARIABLE:
            raise SweepError(
                f"{varying[key]}: `{key}` must be a known key, but is unknown. {remedy_for(key, VARIABLE)}"
            )
    entries = {key: top[key] for top in tops for key in ("base", "data") if key in top}
    for top in tops:
        entries.update(top["options"].fields() if "options" in top else {})
    places = {key: entry.place for key, entry in entries.items()}
    places.update({key: place for key, place in varying.items() if "." not in key})
    elsewhere = {
        name: f"Set `{table}.{name}`." for table, names in TABLES.items() for name in names
    }
    elsewhere.update(ELSEWHERE)
    if starts:
        elsewhere[FINETUNE] = "It is the checkpoint of `start`."
    for key, place in places.items():
        if key in elsewhere:
            raise SweepError(
                f"{place}: `{key}` must be left out of the options, but is there. {elsewhere[key]}"
            )
    return places


def with_defaults(
    data: str, options: Mapping[str, Value], resources: Resources
) -> dict[str, Value]:
    """``options`` without a recipe: what the data and the machine ask for goes before them."""
    asked = {} if "task" in options else data_options(data)
    return {**asked, **({} if resources.uses_gpus else ON_CPU), **options}


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
