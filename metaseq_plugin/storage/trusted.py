"""Files of other people: read as plain data, or refused by the name of the class they ask for.

A pickle may name any class and call it, which can run any program. ``torch.load(weights_only=True)``
therefore knows tensors, plain containers and the few classes of compat/safe_checkpoints.py. metaseq's
training files often hold more, such as the state of its data loader. The user who knows where a file
comes from says --trust-pickle; then classes of packages that are installed here are used as Python's
own unpickler would, and the others, metaseq's among them, become inert stand-ins that keep what they
are given and do nothing.
"""

import pickle
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage.files import check_file, read_torch, unreadable

MAX_NAMED = 3


class StandIn:
    """In the place of a class that is not installed; holds the arguments and state it was given."""

    origin = ""  # module and name of the class
    arguments: Tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> "StandIn":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    # What a pickle does to lists and dictionaries of the class.
    def append(self, item: Any) -> None:
        self.arguments += (item,)

    def extend(self, items: Any) -> None:
        self.arguments += tuple(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.arguments += ((key, value),)


class _Pickle:
    """What ``torch.load`` takes as its ``pickle_module``."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return type(name, (StandIn,), {"origin": f"{module}.{name}"})

    load = staticmethod(pickle.load)


def read_state(path: Path, trust_pickle: bool = False) -> Any:
    """What ``torch.save`` wrote to ``path``, its tensors mapped from the file.

    Raises:
        UserError: the file is unreadable, or holds classes and ``trust_pickle`` is not set.
    """
    try:
        return read_torch(path)
    except UserError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        classes = unsafe_classes(path)
        if not classes:
            raise
        if not trust_pickle:
            shown = ", ".join(classes[:MAX_NAMED])
            more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
            raise UserError(
                f"{path} must hold tensors and plain values, but asks for {shown}{more}, and loading "
                "a class can run any program. Set --trust-pickle if you know who made the file."
            ) from error
    try:
        return torch.load(
            path, map_location="cpu", weights_only=False, mmap=True, pickle_module=_Pickle
        )
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
        TypeError,
    ) as error:
        raise unreadable(path, error) from error


def unsafe_classes(path: Path) -> List[str]:
    """The classes that keep ``path`` from being read as plain data; none if it is no zip file."""
    check_file(path)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, ValueError, pickle.UnpicklingError):
        return []


def plain_settings(held: Any) -> Dict[str, Any]:
    """Settings by name from a dict, a Namespace or a stand-in; enumerated values as their text."""
    if isinstance(held, StandIn):
        held = held.state
    elif held is not None and not hasattr(held, "keys"):
        held = vars(held)
    if held is None or not hasattr(held, "keys"):
        return {}
    return {str(name): _plain(held[name]) for name in held.keys()}  # noqa: SIM118  a DictConfig


def _plain(value: Any) -> Any:
    """The text of one of metaseq's enumerations, which pickle as their class called with it."""
    if isinstance(value, StandIn) and len(value.arguments) == 1:
        return value.arguments[0]
    return value
