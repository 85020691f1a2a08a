"""Copies of a configuration's nodes hold what the node holds, and nothing of what is around it."""

from copy import deepcopy
from enum import Enum
from typing import Any, Callable

import omegaconf
import pytest
from omegaconf import MISSING, OmegaConf

from metaseq_plugin.compat import config_copies


class Colour(Enum):
    RED = 1


@pytest.fixture
def config() -> Any:
    return OmegaConf.create(
        {
            "model": {"dim": 8, "wide": "${model.dim}", "rates": [1.5, {"of": "${task.name}"}]},
            "task": {"name": "lm", "colour": Colour.RED, "none": None, "missing": MISSING},
        }
    )


def test_of_the_whole(config: Any) -> None:
    copy = deepcopy(config)
    assert copy == config
    copy.model.dim = 9
    assert (copy.model.wide, config.model.wide) == (9, 8)
    assert copy.model.rates[1]._get_parent() is copy.model.rates
    assert copy.model.rates._get_parent() is copy.model


def test_of_a_part(config: Any) -> None:
    copy = deepcopy(config.model)
    copy.dim, copy.rates[0] = 9, 2.5
    assert config.model == {"dim": 8, "wide": 8, "rates": [1.5, {"of": "lm"}]}
    assert copy._get_parent() is config
    assert (copy.wide, copy.rates[1].of) == (8, "lm")  # of where it stands


@pytest.mark.parametrize("name", ["name", "colour", "none", "missing"])
def test_of_a_value(config: Any, name: str) -> None:
    node = config.task._get_node(name)
    copy = deepcopy(node)
    assert type(copy) is type(node)
    assert (copy._value(), copy._metadata) == (node._value(), node._metadata)
    assert copy._metadata is not node._metadata


def test_flags_are_the_copys_own(config: Any) -> None:
    OmegaConf.set_struct(config, True)
    copy = deepcopy(config)
    OmegaConf.set_struct(config, False)
    with pytest.raises(AttributeError):
        copy.other = 1


def test_nothing_around_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.create({"part": {"x": 1}, **{f"other{i}": i for i in range(100)}})
    copied = []

    def noting(value: Any, memo: Any, deepcopy: Callable[..., Any] = deepcopy) -> Any:
        copied.append(value)
        return deepcopy(value, memo)

    monkeypatch.setattr(config_copies, "deepcopy", noting)
    deepcopy(config.part)
    assert 0 < len(copied) < 10


def test_other_releases_are_left_alone() -> None:
    assert omegaconf.__version__.startswith("2.0.")
    later = type("omegaconf", (), {"__version__": "2.1.0"})
    assert config_copies.leaving_parents(later) == "omegaconf is not 2.0"
