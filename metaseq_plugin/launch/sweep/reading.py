"""A sweep file, YAML or Python, to a ``Sweep``.

    sweep = read_sweep(Path("sweep.yaml"))

The steps: (1) the file is read, with places (``read_yaml.py``, ``read_program.py``); (2) each stage gives its points
(``points.py``), and a run for each (``stage.py``); (3) no two runs may have one folder; (4) options are checked
against those of ``fairseq-train`` (``option_check.py``).
"""

from pathlib import Path
from typing import Mapping, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.sweep.best import best_run
from metaseq_plugin.launch.sweep.marked import Marked
from metaseq_plugin.launch.sweep.names import safe
from metaseq_plugin.launch.sweep.option_check import check_runs
from metaseq_plugin.launch.sweep.points import SECTIONS, Point, read_points, without_repeats
from metaseq_plugin.launch.sweep.read_program import read_program
from metaseq_plugin.launch.sweep.read_yaml import read_yaml
from metaseq_plugin.launch.sweep.stage import Parent, Recipe
from metaseq_plugin.launch.sweep.sweep import BEST, EACH, Run, Stage, Sweep

SHARED = ("base", "data", "options", "resources", "survival")  # of the file, and of each stage
ORDER = ("after", "start", "checkpoint")  # of a stage that comes after another
CHECKPOINT = "checkpoint_last.pt"
SUFFIXES = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_program}


def read_sweep(path: Path, resources: Optional[Mapping[str, object]] = None) -> Sweep:
    """All stages of a file.

    Args:
        resources: entries of ``resources`` that count more than the file's; from a command line.

    Raises:
        UserError: a mistake in the file, with file, line and key.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"A sweep must be a .yaml, .yml or .py file, but is {path}. Name another.")
    whole = SUFFIXES[path.suffix](path)
    documents = (
        [whole] if isinstance(whole.content, Mapping) or path.suffix != ".py" else whole.items()
    )
    places: dict[str, str] = {}
    stages: list[Stage] = []
    for document in documents:
        stages += read_document(document, places)
    sweep = Sweep(path, stages)
    check_folders(sweep)
    check_runs(sweep.runs(), places)
    return sweep


def read_document(document: Marked, places: dict[str, str]) -> list[Stage]:
    """The stages of one mapping; adds the places of its keys to ``places``."""
    top = document.fields("save_dir", "stages", *SHARED, *SECTIONS)
    if "save_dir" not in top:
        raise document.refused("have `save_dir`", "Write `save_dir: FOLDER`, the folder of all runs.", "without")  # fmt: skip
    folder = Path(top["save_dir"].text())
    if "stages" not in top:
        recipe = Recipe({}, top, folder, [])
        points, repeated, varying = points_of(document)
        places.update(recipe.check_keys(varying, starts=False))
        return [Stage("", list(recipe.runs(points, [None])), list(varying), repeated=repeated)]
    for name in SECTIONS:
        if name in top:
            raise top[name].refused("stand in a stage where there are stages", "Move it into one.", "outside")  # fmt: skip
    shared = {key: top[key] for key in SHARED if key in top}
    stages: list[Stage] = []
    for name, marked in top["stages"].fields().items():
        if not name or safe(name) != name or name[0] in ".-":
            raise marked.refused("be a name of letters, digits, `_`, `-` and `.`", "Name it like pretrain.", "another")  # fmt: skip
        stages.append(read_stage(name, marked, shared, folder / name, stages, places))
    if not stages:
        raise top["stages"].refused("hold at least one stage", "Leave it out, or write one.")
    return stages


def read_stage(
    name: str,
    marked: Marked,
    shared: Mapping[str, Marked],
    folder: Path,
    before: Sequence[Stage],
    places: dict[str, str],
) -> Stage:
    """One of several stages; ``before`` are those that stand before it."""
    own = marked.fields(*SHARED, *SECTIONS, *ORDER)
    previous = stage_before(own, before)
    start = own["start"].one_of((EACH, BEST)) if "start" in own else None
    for key in ("start", "checkpoint"):
        if key in own and "after" not in own:
            raise own[key].refused("come with `after`", "Write `after: STAGE`.", "without")
    waits, parents = None, [None]
    if previous is not None and start is not None:
        file = own["checkpoint"].text() if "checkpoint" in own else CHECKPOINT
        waits, parents = parents_of(previous, start, file)
    recipe = Recipe(
        shared, own, folder, [run.save_dir for run in previous.runs] if previous else []
    )
    points, repeated, varying = points_of(marked)
    places.update(recipe.check_keys(varying, starts=start is not None))
    runs = list(recipe.runs(points, parents))
    after = previous.name if previous else None
    return Stage(name, runs, list(varying), after, start, waits, repeated)


def stage_before(own: Mapping[str, Marked], before: Sequence[Stage]) -> Optional[Stage]:
    """The stage that ``after`` names."""
    if "after" not in own:
        return None
    names = [stage.name for stage in before]
    if not names:
        raise own["after"].refused("name a stage that stands before", "Leave it out of the first.")
    return before[names.index(own["after"].one_of(names))]


def parents_of(
    previous: Stage, start: str, file: str
) -> tuple[Optional[str], list[Optional[Parent]]]:
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
            raise UserError(
                f"{run.point.place}: every run must have a name of its own, but {run.name} is that of two: "
                f"{other.point.shown} ({other.point.place}), and {run.point.shown} ({run.point.place}). "
                "Write values that differ in letters and digits."
            )
