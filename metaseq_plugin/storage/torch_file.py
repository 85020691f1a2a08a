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
import pickletools
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metaseq_plugin.compat.checkpoint_errors import UNREADABLE, unreadable
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage import plain_data

MAX_NAMED = 3
# A file of PyTorch before 1.6: pickles one after the other, the fourth of which holds everything.
MAX_PICKLES = 4
# What weights_only lets through and no checkpoint asks for: it makes as many bytes as a number says.
NEVER_ASKED = {"builtins.bytearray", "__builtin__.bytearray"}


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
        is_mapped = check_archive(path)  # files of PyTorch before 1.6 cannot be mapped
        refused = [name for name in named_in(path) if name in NEVER_ASKED]
        if refused and not trust_pickle:
            raise holds_classes(path, refused)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
        plain_data.check(state, path, path.stat().st_size)
        return state
    except UserError:
        raise
    except UNREADABLE as error:
        classes = unsafe_classes(path) if isinstance(error, pickle.UnpicklingError) else []
        if not classes:
            raise unreadable(path, error) from error
        if not trust_pickle:
            raise holds_classes(path, classes) from error
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=False, mmap=True, pickle_module=_Pickle
        )
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    plain_data.check(state, path, path.stat().st_size, trusted=True)
    return state


def holds_classes(path: Path, classes: List[str]) -> UserError:
    """The sentence for a file that asks for ``classes``."""
    shown = ", ".join(classes[:MAX_NAMED])
    more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
    return UserError(
        f"{path} must hold tensors and plain values, but asks for {shown}{more}, and loading "
        "a class can run any program. If it is metaseq's and you know who made it, convert it with `metaseq "
        "convert … --trust-pickle`; else do not load it."
    )


def check_archive(path: Path) -> bool:
    """Whether ``path`` is a zip file, as PyTorch writes them since 1.6.

    Raises:
        UserError: one whose entries are packed, of which a few bytes can become any number, or claim to be
            larger than the file, or lie outside of it.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    is_kept = all(
        entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        for entry in entries
    )
    held = sum(entry.file_size for entry in entries)
    names = [PurePosixPath(entry.filename) for entry in entries]
    is_inside = not any(name.is_absolute() or ".." in name.parts for name in names)
    if not is_kept or held > path.stat().st_size or not is_inside:
        raise UserError(
            f"{path} must be a checkpoint as PyTorch writes it, but its entries are packed, larger than the file "
            "or named outside of it. Use another checkpoint, or copy this one again."
        )
    return True


def named_in(path: Path) -> List[str]:
    """The names of all that the pickles in ``path`` ask for, in order; what is damaged ends the list."""
    found: List[str] = []
    with contextlib.suppress(*UNREADABLE):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith("/data.pkl"):
                        with archive.open(entry) as stream:
                            _add_names(stream, found)
        else:
            with path.open("rb") as file:
                for _ in range(MAX_PICKLES):
                    _add_names(file, found)
    return sorted(set(found))


def _add_names(stream: Any, found: List[str]) -> None:
    texts: List[str] = []  # STACK_GLOBAL takes the last two
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            found.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
            found.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
            del texts[:-2]


def unsafe_classes(path: Path) -> List[str]:
    """The classes that keep ``path`` from being read as plain data."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except UNREADABLE:  # of PyTorch before 1.6, or for another reason than a class
        plain = ("torch.", "collections.", "omegaconf.", "argparse.Namespace")
        return [name for name in named_in(path) if not name.startswith(plain)]


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
