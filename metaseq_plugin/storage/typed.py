"""Values of a file held against the types that its reader declares, before anything is done with them.

    class Position(TypedDict):
        document: int
        token: int

    check(state["start"], Position, f"{path}: start")        # or one sentence, which names what is wrong

A type is one of ``typing``'s, of as many of them as readers here use. ``int`` is a count, from 0 to what 63 bits
hold, and no bool; ``float`` takes counts too. Keys that a TypedDict does not name are not looked at.
"""

import reprlib
import types
from typing import (
    Any,
    Iterable,
    Optional,
    Tuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from torch import Tensor

from metaseq_plugin.compat.errors import UserError

LARGEST_COUNT = 2**63 - 1
AGAIN = "Use another checkpoint, or copy this one again."
WORDS = {
    int: "a whole number from 0",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Tensor: "a tensor",
    type(None): "nothing",
}
UNIONS = (Union, types.UnionType)


class Fault:
    """What is wrong, and where: the words of a rule and the value that breaks it."""

    def __init__(self, where: str, rule: str, value: Any) -> None:
        self.where, self.rule, self.value = where, rule, value

    def sentence(self, source: Any) -> str:
        return f"{source} must hold {self.rule} at `{self.where}`, but holds {described(self.value)}. {AGAIN}"


def check(value: Any, kind: Any, where: str, source: Any) -> None:
    """Refuse a ``value`` that is not of the type ``kind``.

    Args:
        where: its name in the file, for the message.
        source: the file, for the message.

    Raises:
        UserError: naming the first part of it that is something else.
    """
    fault = fault_of(value, kind, where)
    if fault is not None:
        raise UserError(fault.sentence(source))


def described(value: Any) -> str:
    """``value`` in a few words: a tensor's shape, a container's kind and size, else the value itself."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, (dict, list, tuple, set)):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None:
        return "nothing"
    kind = type(value).__name__
    return f"{reprlib.repr(value)} of type {kind}" if kind in ("str", "int", "float") else kind


def fault_of(value: Any, kind: Any, where: str) -> Optional[Fault]:
    """The first fault of ``value`` as a ``kind``, or None."""
    if kind is Any:
        return None
    origin = get_origin(kind)
    if origin in UNIONS:
        return _fault_of_union(value, get_args(kind), where)
    if is_typeddict(kind):
        return _fault_of_keys(value, kind, where)
    if origin is dict:
        return _fault_of_dict(value, get_args(kind), where)
    if origin is list:
        if not isinstance(value, list):
            return Fault(where, "a list", value)
        return _first((item, get_args(kind)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is tuple:
        kinds = get_args(kind)
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            return Fault(where, f"a list of {len(kinds)}", value)
        return _first(
            (item, k, f"{where}[{i}]") for i, (item, k) in enumerate(zip(value, kinds, strict=True))
        )
    return None if _is_plain(value, kind) else Fault(where, WORDS[kind], value)


def _is_plain(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST_COUNT
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) <= LARGEST_COUNT)
    return isinstance(value, kind)


def _fault_of_union(value: Any, kinds: Tuple[Any, ...], where: str) -> Optional[Fault]:
    if value is None and type(None) in kinds:
        return None
    faults = [fault_of(value, kind, where) for kind in kinds if kind is not type(None)]
    return None if None in faults else faults[0]


def _fault_of_keys(value: Any, kind: Any, where: str) -> Optional[Fault]:
    if not isinstance(value, dict):
        return Fault(where, "a dictionary", value)
    missing = sorted(kind.__required_keys__ - value.keys())
    if missing:
        return Fault(f"{where}.{missing[0]}", "a value", None)
    hints = get_type_hints(kind)
    return _first((value[name], hints[name], f"{where}.{name}") for name in hints if name in value)


def _fault_of_dict(value: Any, kinds: Tuple[Any, ...], where: str) -> Optional[Fault]:
    if not isinstance(value, dict):
        return Fault(where, "a dictionary", value)
    of_key, of_value = kinds
    wrong = next((key for key in value if fault_of(key, of_key, where) is not None), None)
    if wrong is not None or None in value:
        return Fault(f"{where}, as a key", WORDS[of_key], wrong)
    return _first((held, of_value, f"{where}.{key}") for key, held in value.items())


def _first(asked: Iterable[Tuple[Any, Any, str]]) -> Optional[Fault]:
    """The first fault of (value, kind, where)."""
    return next((fault for entry in asked if (fault := fault_of(*entry)) is not None), None)
