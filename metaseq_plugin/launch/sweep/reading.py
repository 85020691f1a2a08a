"""A sweep file, YAML or Python, to a ``Sweep``.

    sweep = read_sweep(Path("sweep.yaml"))

The steps: (1) the file is read, with places (``read_yaml.py``, ``read_program.py``); (2) each stage gives its points
(``points.py``), and for each a run, whose options are checked (``stage.py``); (3) no two runs may have one folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import Launch
from metaseq_plugin.launch.sweep.best import best_run
from metaseq_plugin.launch.sweep.marked import Marked, SweepError
from metaseq_plugin.launch.sweep.names import safe
from metaseq_plugin.launch.sweep.points import SECTIONS, Point, filled, read_points, without_repeats
from metaseq_plugin.launch.sweep.read_program import read_program
from metaseq_plugin.launch.sweep.read_yaml import read_yaml
from metaseq_plugin.launch.sweep.stage import Change, Parent, Recipe, check_keys
from metaseq_plugin.launch.sweep.sweep import BEST, EACH, Run, Stage, Sweep

SHARED = ("base", "data", "options", "resources", "survival")  # of the file, and of each stage
ORDER = ("after", "start", "checkpoint")  # of a stage that comes after another
CHECKPOINT = "checkpoint_last.pt"
SUFFIXES = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_program}


def unchanged(launch: Launch) -> Launch:
    return launch


def read_sweep(path: Path, change: Change = unchanged) -> Sweep:
    """All stages of a file.

    Args:
        change: gives a launch the resources and survival that count more than the file's.

    Raises:
        SweepError: a mistake in the file, with file, line and key.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"A sweep must be a .yaml, .yml or .py file, but is {path}. Name another.")
    whole = SUFFIXES[path.suffix](path)
    documents = (
        [whole] if isinstance(whole.content, Mapping) or path.suffix != ".py" else whole.items()
    )
    stages = [stage for document in documents for stage in read_document(document, change)]
    sweep = Sweep(path, stages)
    check_folders(sweep)
    return sweep


@dataclass(frozen=True)
class Setting:
    """What a stage finds: the entries of the file, its folder, the stages before it, and ``read_sweep``'s change."""

    shared: Mapping[str, Marked]
    folder: Path
    before: Sequence[Stage]
    change: Change


def read_document(document: Marked, change: Change) -> list[Stage]:
    """The stages of one mapping."""
    top = document.fields("save_dir", "stages", *SHARED, *SECTIONS)
    if "save_dir" not in top:
        raise document.refused("have `save_dir`", "Write `save_dir: FOLDER`, the folder of all runs.", "without")  # fmt: skip
    folder = Path(top["save_dir"].text())
    if "stages" not in top:
        return [read_stage("", document, Setting({}, folder, [], change))]
    for name in SECTIONS:
        if name in top:
            raise top[name].refused("stand in a stage where there are stages", "Move it into one.", "outside")  # fmt: skip
    shared = {key: top[key] for key in SHARED if key in top}
    stages: list[Stage] = []
    for name, marked in filled(top["stages"]).items():
        if safe(name) != name or name[:1] in "._-+":
            raise marked.refused("be a name of letters, digits, `_`, `-` and `.`", "Name it like pretrain.", "another")  # fmt: skip
        marked.fields(*SHARED, *SECTIONS, *ORDER)
        stages.append(read_stage(name, marked, Setting(shared, folder / name, stages, change)))
    return stages


def read_stage(name: str, marked: Marked, setting: Setting) -> Stage:
    """One stage: the whole file, or one of its stages."""
    own = marked.fields()
    previous = stage_before(own, setting.before)
    start = own["start"].one_of((EACH, BEST)) if "start" in own else None
    for key in ("start", "checkpoint"):
        needed = "after" if key == "start" else "start"
        if key in own and needed not in own:
            raise own[key].refused(f"come with `{needed}`", f"Write `{needed}`, too.", "without")
    waits: Optional[str] = None
    parents: Sequence[Optional[Parent]] = [None]
    if previous is not None and start is not None:
        file = own["checkpoint"].text() if "checkpoint" in own else CHECKPOINT
        waits, parents = parents_of(previous, start, file)
    points, repeated, varying = points_of(marked)
    options = [top["options"].fields() for top in (setting.shared, own) if "options" in top]
    recipe = Recipe(
        setting.shared,
        own,
        setting.folder,
        [run.save_dir for run in previous.runs] if previous else [],
        check_keys(options, varying, starts=start is not None),
        setting.change,
    )
    runs = list(recipe.runs(points, parents))
    after = None if previous is None else previous.name
    return Stage(name, setting.folder, runs, list(varying), after, start, waits, repeated)


def stage_before(own: Mapping[str, Marked], before: Sequence[Stage]) -> Optional[Stage]:
    """The stage that ``after`` names."""
    if "after" not in own:
        return None
    names = [stage.name for stage in before]
    if not names:
        raise own["after"].refused("name a stage that stands before", "Leave it out of the first.")
    return before[names.index(own["after"].one_of(names))]


def parents_of(previous: Stage, start: str, file: str) -> tuple[Optional[str], Sequence[Parent]]:
    """Why the stage waits, if it does, and the runs that its own start from."""
    if start == EACH:
        return None, [Parent(run, str(run.save_dir / file), True) for run in previous.runs]
    best, waits = best_run(previous)
    if best is not None:
        return None, [Parent(best, str(best.save_dir / file), False)]
    stand_in = f"<best of {previous.name}>/{file}"
    return waits, [Parent(previous.runs[0], stand_in, False)]


def points_of(marked: Marked) -> tuple[list[Point], int, dict[str, str]]:
    """The different points, how many were there again, and the keys that vary."""
    points, varying = read_points(marked)
    different = list(without_repeats(points))
    return [point for point, _ in different], len(points) - len(different), varying


def check_folders(sweep: Sweep) -> None:
    """Refuse two runs of one folder."""
    seen: dict[Path, Run] = {}
    for run in sweep.runs():
        other = seen.setdefault(run.save_dir, run)
        if other is not run:
            raise SweepError(
                f"{run.point.place}: every run must have a name of its own, but {run.name} is that of two: "
                f"{other.point.shown} ({other.point.place}), and {run.point.shown} ({run.point.place}). "
                "Write values that differ in letters and digits."
            )
