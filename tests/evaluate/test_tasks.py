"""The list of tasks: each is found by the name that it bears, and groups are made of tasks."""

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.tasks import GROUPS, TASKS, load, tasks_of


@pytest.mark.parametrize("name", TASKS)
def test_a_task_bears_its_name(name: str) -> None:
    task = load(name)
    assert task.name == name
    assert task.title
    assert task.source


def test_groups_are_made_of_tasks() -> None:
    for group, names in GROUPS.items():
        assert set(names) <= TASKS.keys(), group
        assert [task.name for task in tasks_of([group, names[0]])] == list(names)


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(
        UserError, match=r"`TASK` must be one of harms, .*crows-pairs.* but is crows"
    ):
        tasks_of(["stereoset", "crows"])
