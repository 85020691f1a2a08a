"""The file of results: what a model was, what was asked of it, and the figures; neither time nor host.

    write_results(results, Path("eval-harms.json"))
    read_results(Path("eval-harms.json")).tasks["crows-pairs"].measures

Keys are sorted and the file is replaced whole, so the same command twice leaves the same bytes. What each item
was answered lies beside it (``items_of``; ``items_file.py``).
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from metaseq_plugin.compat.errors import UserError, brief
from metaseq_plugin.evaluate.task import Measure
from metaseq_plugin.storage.atomic import replacing
from metaseq_plugin.storage.json_lines import finite

FORMAT = 1
SUFFIX, ITEMS_SUFFIX = ".json", ".items.jsonl"
MAX_BYTES = 64 * 2**20
# Of what kind the parts of a file are, which somebody may have edited.
KINDS: Mapping[str, type] = {
    "model": dict,
    "options": dict,
    "versions": dict,
    "left_out": dict,
    "order": list,
}
OF_TASK: Mapping[str, type] = {
    **{"title": str, "source": str, "protocol": dict, "data": dict, "items": str},
    **{"n": int, "ncut": int, "nmerged": int, "measures": list},
}  # fmt: skip
OF_MEASURE: Mapping[str, type] = {"name": str, "group": str, "note": str, "n": int}


@dataclass(frozen=True)
class TaskResult:
    """What came of one task.

    Attributes:
        title, source, protocol: as the task gives them.
        data: path below ``--data`` -> SHA-256 of the file that was read.
        n: items.
        ncut: requests of which the model did not read the beginning, because it reads no more.
        nmerged: requests in which a token lies on both sides of the boundary of context and continuation.
        items: SHA-256 of the items' ids, in order.
    """

    title: str
    source: str
    protocol: Mapping[str, Any]
    data: Mapping[str, str]
    n: int
    ncut: int
    nmerged: int
    measures: tuple[Measure, ...]
    items: str


@dataclass(frozen=True)
class Results:
    """A file of results.

    Attributes:
        model: ``Model.about``.
        options: limit, shots, seed, and of the scorer ``Scorer.about``; None where it was not given.
        versions: package -> version.
        tasks: name -> what came of it, in the order in which they were asked for.
        left_out: name -> why a task of a group that was asked for did not run.
    """

    model: Mapping[str, Any]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    tasks: Mapping[str, TaskResult]
    left_out: Mapping[str, str] = field(default_factory=dict)


def items_of(output: Path) -> Path:
    """The file of items beside the results ``output``."""
    return output.with_name(output.name.removesuffix(SUFFIX) + ITEMS_SUFFIX)


def digest(ids: Iterable[str]) -> str:
    """SHA-256 of ids, in order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def as_json(results: Results) -> dict[str, Any]:
    """``results`` as they are written; a value that is no number is null."""
    tasks = {
        name: {**asdict(task), "measures": [measure._asdict() for measure in task.measures]}
        for name, task in results.tasks.items()
    }
    whole = {**vars(results), "tasks": tasks, "order": list(tasks), "format": FORMAT}
    return dict(finite(whole))


def as_text(results: Results) -> str:
    """The file's content."""
    return json.dumps(as_json(results), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_results(results: Results, path: Path) -> None:
    """Raises OSError where the disk says no."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(as_text(results).encode("utf-8", "backslashreplace"))


def read_results(path: Path) -> Results:
    """The results in a file.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise not_results(path, f"has {size:,} bytes")
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise not_results(
                path, f"is of format {content['format']!r}, which this version does not know"
            )
        check_kinds(content, KINDS)
        check_told(content)
        tasks = {name: read_task(content["tasks"][name]) for name in content["order"]}
        rest = {name: content[name] for name in ("model", "options", "versions", "left_out")}
        return Results(**rest, tasks=tasks)
    except OSError as error:
        raise not_results(path, f"cannot be read ({error.strerror})") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise not_results(path, f"is not ({brief(str(error), 80)})") from error


def check_kinds(content: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raises KeyError or TypeError for a part that is missing or of another kind."""
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise TypeError(f"{name} is {content[name]!r}")


def check_told(content: Mapping[str, Any]) -> None:
    """The same for what tables tell of the model and the options."""
    size, limit = content["model"].get("num_parameters"), content["options"].get("limit")
    for name, value in {"num_parameters": size, "limit": limit}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise TypeError(f"{name} is {value!r}")
    if not isinstance(content["options"].get("scorer") or {}, dict):
        raise TypeError(f"scorer is {content['options']['scorer']!r}")
    check_kinds(content["left_out"], dict.fromkeys(content["left_out"], str))


def read_task(content: Mapping[str, Any]) -> TaskResult:
    """Raises what a wrong ``content`` leads to."""
    check_kinds(content, OF_TASK)
    measures = tuple(read_measure(measure) for measure in content["measures"])
    return TaskResult(**{**content, "measures": measures})


def read_measure(content: Mapping[str, Any]) -> Measure:
    check_kinds(content, OF_MEASURE)
    measure = Measure(**content)
    interval = (
        None
        if measure.interval is None
        else (float(measure.interval[0]), float(measure.interval[1]))
    )
    value = math.nan if measure.value is None else float(measure.value)
    error: Optional[float] = None if measure.stderr is None else float(measure.stderr)
    return measure._replace(value=value, stderr=error, interval=interval)


def not_results(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} must be results of `metaseq eval --output`, but {what}. Set another file."
    )
