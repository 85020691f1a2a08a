"""What ``metaseq eval --list`` prints: groups and tasks, and the files that each needs, with where to get them."""

from typing import Iterator, Sequence

from metaseq_plugin.evaluate.task import DataFile, Task
from metaseq_plugin.evaluate.tasks import GROUPS, TASKS, load, tasks_of

NO_CHECKSUM = "no known SHA-256"


def listing(names: Sequence[str]) -> Iterator[str]:
    """The lines for the tasks of ``names``, or of all.

    Raises:
        UserError: a name that is none.
    """
    if not names:
        for name, members in GROUPS.items():
            yield f"{name}: {' '.join(members)}"
        yield ""
    for task in tasks_of(names) if names else map(load, TASKS):
        yield from lines_of(task)


def lines_of(task: Task) -> Iterator[str]:
    needs = ["--scorer"] if task.needs_scorer else []
    needs += ["--shots K"] if task.shots is not None else []
    takes = f" (takes {', '.join(needs)})" if needs else ""
    yield f"{task.name}: {task.title}{takes}"
    yield f"    {task.source}"
    for file in task.files:
        yield from lines_of_file(file)


def lines_of_file(file: DataFile) -> Iterator[str]:
    yield f"    {file.path}  {file.sha256 or NO_CHECKSUM}"
    yield f"        from {file.source} ({file.licence}): {file.form}"
