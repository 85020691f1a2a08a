"""Every registered config of ours keeps the rules without which fairseq drops or bends an option.

A fault is found in the dataclass itself, before any command line: a name that fairseq has taken
(dropped silently), a bool that defaults to True (its flag turns it off), an interpolated default
with help (arrives as a string), type spellings that arrive as something else, annotations that are
text (`from __future__ import annotations`), enums whose name is not their value, and missing help.
"""

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Iterator, List, Optional

import pytest
from fairseq import registry
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import II

import metaseq_plugin  # noqa: F401  (registers our components)

OURS = "metaseq_plugin"


def taken_names() -> dict[str, str]:
    """Every option name of fairseq's own groups, and the group that has it."""
    groups = {group.name: group.type for group in dataclasses.fields(FairseqConfig)}
    return {
        option.name: name
        for name, group in groups.items()
        if dataclasses.is_dataclass(group)
        for option in dataclasses.fields(group)
        if not option.name.startswith("_")
    }


def own_fields(config: type) -> Iterator["dataclasses.Field[Any]"]:
    """The fields that classes of ours declare; those inherited from fairseq's are fairseq's affair."""
    by_name = {option.name: option for option in dataclasses.fields(config)}
    for owner in config.__mro__:
        if owner.__module__.split(".")[0] in (OURS, __name__.split(".")[0]):
            for name in vars(owner).get("__annotations__", {}):
                if name in by_name and not name.startswith("_"):
                    yield by_name.pop(name)


def type_faults(spelled: Any) -> Iterator[str]:
    if isinstance(spelled, str):
        yield "its annotation is text; remove `from __future__ import annotations`"
    elif isinstance(spelled, types.UnionType):
        yield f"spell {spelled} as Optional[...]"
    elif isinstance(spelled, types.GenericAlias):
        yield f"spell {spelled} with List, Tuple or Dict of typing"
    elif typing.get_origin(spelled) is typing.Literal:
        yield "use an enum, not Literal"
    elif isinstance(spelled, type) and issubclass(spelled, enum.Enum):
        if not issubclass(spelled, str) or any(member.name != member.value for member in spelled):
            yield "an enum must be `class X(str, Enum)` with name == value"
    else:
        for argument in typing.get_args(spelled):
            yield from type_faults(argument)


def faults(config: type) -> list[str]:
    """What is wrong with a config dataclass, a sentence each, beginning with the field's name."""
    taken, found = taken_names(), []
    for option in own_fields(config):
        said = list(type_faults(option.type))
        help_text = option.metadata.get("help")
        inherited = isinstance(option.default, str) and option.default.startswith("${")
        if inherited and help_text:
            said.append("an interpolated default must not have help")
        if not inherited and not help_text:
            said.append("it has no help")
        if not inherited and option.name in taken:
            said.append(f"the name is taken by fairseq's {taken[option.name]}")
        if option.default is True:
            said.append("a bool must default to False")
        found += [f"{option.name}: {sentence}" for sentence in said]
    return found


def our_configs() -> dict[str, type]:
    """The config of every component that metaseq_plugin registers, by kind and name."""
    tables = {
        "model": MODEL_DATACLASS_REGISTRY,
        "task": TASK_DATACLASS_REGISTRY,
        "criterion": CRITERION_DATACLASS_REGISTRY,
        **{kind: table["dataclass_registry"] for kind, table in registry.REGISTRIES.items()},
    }
    return {
        f"{kind} {name}": config
        for kind, table in tables.items()
        for name, config in table.items()
        if config is not None and config.__module__.split(".")[0] == OURS
    }


class Mode(str, enum.Enum):
    none = "none"
    COMPLETE = "complete"


@dataclass
class Bad(FairseqDataclass):
    """One planted fault a field."""

    seed: int = field(default=7, metadata={"help": "taken"})
    use_it: bool = field(default=True, metadata={"help": "on by default"})
    bent: int = field(default=II("task.bent"), metadata={"help": "interpolated, with help"})
    union: "typing.Union[int, None]" = field(default=None, metadata={"help": "text"})
    builtin: list[int] = field(default_factory=list, metadata={"help": "builtin generic"})
    literal: Optional[typing.Literal["a"]] = field(default=None, metadata={"help": "literal"})
    mode: Mode = field(default=Mode.none, metadata={"help": "name is not value"})
    helpless: int = 3


Bad.__dataclass_fields__["seed"].type = int | None


@dataclass
class Good(FairseqDataclass):
    """No fault: the spellings that fairseq understands."""

    widths: Optional[List[int]] = field(default=None, metadata={"help": "columns of each layer"})
    no_bias: bool = field(default=False, metadata={"help": "leave the biases out"})
    seed: int = II("common.seed")


def test_the_checker_finds_every_planted_fault() -> None:
    found = faults(Bad)
    names = [sentence.split(":")[0] for sentence in found]
    assert sorted(names) == sorted(["seed", *(option.name for option in own_fields(Bad))])
    assert any("seed: the name is taken by fairseq's common" in sentence for sentence in found)


def test_the_checker_passes_what_is_right() -> None:
    assert faults(Good) == []


def test_our_configs_have_no_faults() -> None:
    found = [
        f"{name}: {fault}" for name, config in our_configs().items() for fault in faults(config)
    ]
    assert not found, "\n".join(found)


def test_no_two_of_our_configs_take_the_same_name() -> None:
    """Chosen together, the second would be dropped from the command line silently."""
    owners: dict[str, list[str]] = {}
    for name, config in our_configs().items():
        for option in own_fields(config):
            if not (isinstance(option.default, str) and option.default.startswith("${")):
                owners.setdefault(option.name, []).append(name)
    kinds = {option: {name.split()[0] for name in names} for option, names in owners.items()}
    assert {option: owners[option] for option in kinds if len(kinds[option]) > 1} == {}


@pytest.mark.skipif(not our_configs(), reason="no component of ours is registered yet")
def test_registered_names_are_ours() -> None:
    """fairseq keeps the first class of a name silently; ours must be the one that is found."""
    for name, model in ARCH_MODEL_REGISTRY.items():
        if name.startswith("opt_") or name == "opt":
            assert model.__module__.split(".")[0] == OURS, name
