"""Files of ``torch.save``: the one reader, plain data or refused, and the writer that knows its checksum.

What ``read`` returns lies in the file itself, mapped into memory: bytes are read when they are used, and
the system may drop them again, so a conversion that only renames holds no copy of the weights.

A pickle may name any class and call it, which can run any program. ``torch.load(weights_only=True)``
therefore knows tensors, plain containers and the few classes of compat/safe_checkpoints.py. metaseq's
training files often hold more, such as the state of its data loader. The user who knows where a file
comes from says --trust-pickle; then classes of packages that are installed here are used as Python's
own unpickler would, and the others, metaseq's among them, become inert stand-ins that keep what they
are given and do nothing.
"""

import contextlib
import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metaseq_plugin.compat.checkpoint_errors import UNREADABLE, unreadable
from metaseq_plugin.compat.errors import UserError

# What torch.load raises for what is no checkpoint of its own; text goes far into its unpickler.
DAMAGED = (
    *UNREADABLE,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
)
MAX_NAMED = 3


class Facts(NamedTuple):
    """What a file must be: its size, and SHA-256 as hexadecimal digits."""

    num_bytes: int
    sha256: str


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


def read(path: Path, trust_pickle: bool = False) -> Any:
    """What ``torch.save`` wrote to ``path``, its tensors mapped from the file.

    Raises:
        UserError: missing, cut off, no checkpoint; or it holds classes and ``trust_pickle`` is not set.
    """
    try:
        is_mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except DAMAGED as error:
        classes = unsafe_classes(path) if isinstance(error, pickle.UnpicklingError) else []
        if not classes:
            raise unreadable(path, error) from error
        if not trust_pickle:
            shown = ", ".join(classes[:MAX_NAMED])
            more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
            raise UserError(
                f"{path} must hold tensors and plain values, but asks for {shown}{more}, and loading "
                "a class can run any program. If you know who made the file, convert it with `metaseq "
                "convert … --trust-pickle`."
            ) from error
    try:
        return torch.load(
            path, map_location="cpu", weights_only=False, mmap=True, pickle_module=_Pickle
        )
    except DAMAGED as error:
        raise unreadable(path, error) from error


def unsafe_classes(path: Path) -> List[str]:
    """The classes that keep ``path`` from being read as plain data; none if it is no zip file."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except DAMAGED:
        return []


def write(path: Path, state: Any) -> Facts:
    """``torch.save`` ``state`` to ``path`` and flush it to the disk.

    Raises:
        OSError: what the disk says, not what torch makes of it; ``filename`` is the path.
    """
    try:
        file: Any = _HashingFile(path)
        try:
            # A torch.Size would come out of the walk as a tuple.
            owned = tree_map_only(
                Tensor, own_memory, state, is_leaf=lambda held: isinstance(held, torch.Size)
            )
            torch.save(owned, file)
        except (RuntimeError, OSError):
            file.abandon()
            if file.error is None:
                raise
            raise file.error from None
        return file.close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def own_memory(tensor: Tensor) -> Tensor:
    """``tensor``, copied where it is a part of something larger, all of which would be written."""
    is_all = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if is_all else tensor.clone()


class _HashingFile:
    """A file that knows the checksum of what was written to it, and the error that ended it."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("wb")
        self.digest = hashlib.sha256()
        self.error: Optional[OSError] = None

    def write(self, data: Any) -> int:
        try:
            written = self.stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self.stream.flush()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()

    def close(self) -> Facts:
        with self.stream:
            self.stream.flush()
            os.fsync(self.stream.fileno())
            return Facts(self.stream.tell(), self.digest.hexdigest())
