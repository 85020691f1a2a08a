"""Files on disk: torch's and safetensors' read by mapping, folders written whole or not at all.

Every tensor that ``read_torch`` and ``read_safetensors`` return lies in the file itself, mapped into
memory: bytes are read when they are used, and the system may drop them again, so a conversion that
only renames holds no copy of the weights.
"""

import json
import os
import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metaseq_plugin.compat.errors import UserError

# What a folder made by `metaseq convert` holds, so that --overwrite deletes nothing else.
FAIRSEQ_CHECKPOINT = "checkpoint.pt"
HF_CONFIG = "config.json"
METASEQ_FILES = "reshard*.pt"
CONVERTED = (FAIRSEQ_CHECKPOINT, HF_CONFIG, METASEQ_FILES)


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``: plain containers and tensors mapped from the file.

    Raises:
        UserError: the file is missing, empty, cut off, no checkpoint, or holds other Python objects.
    """
    check_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read_safetensors(path: Path) -> Dict[str, Tensor]:
    """The tensors of ``path``, mapped from the file.

    Raises:
        UserError: the file is missing, empty, cut off, or no safetensors file.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def read_json(path: Path) -> Dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: missing, not UTF-8 JSON, or something other than an object.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold a JSON object, but holds a {type(content).__name__}. Fetch it again."
        )
    return content


def write_json(path: Path, content: Dict[str, Any]) -> None:
    """Write ``content`` as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate, as in a file's name that is not UTF-8, becomes a JSON escape.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def check_file(path: Path) -> None:
    """Refuse a path that is no file, or an empty one."""
    if not path.is_file():
        raise UserError(f"SRC must have the file {path}, but it does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} must not be empty, but has 0 bytes. Copy or write it again.")


def unreadable(path: Path, error: Exception) -> UserError:
    """The error to raise where ``error`` says that a file is damaged or of another kind."""
    reason = str(error).strip().split("\n")[0].rstrip(".")[:200]
    return UserError(
        f"{path} must be a complete, readable {path.suffix} file, but is not ({reason}). "
        "Copy or write it again."
    )


def check_destination(
    dst: Path,
    src: Path,
    overwrite: bool,
    replaced: str = "a converted model",
    marks: Sequence[str] = CONVERTED,
) -> None:
    """Refuse to write to ``dst`` where that would lose something.

    Args:
        replaced: what ``overwrite`` may replace.
        marks: the files one of which shows that it is that.
    """
    if dst.resolve() == src.resolve() or dst.resolve() in src.resolve().parents:
        raise UserError(f"DST must not be SRC or a folder around it, but is {dst}. Set another.")
    if not dst.exists():
        return
    if not dst.is_dir():
        raise UserError(f"DST must be a folder to make, but {dst} is a file. Set another.")
    if not any(dst.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"DST must not exist yet, but {dst} does. Set another, or replace it with --overwrite."
        )
    if not any(any(dst.glob(name)) for name in marks):
        *others, last = marks
        names = f"{', '.join(others)} or {last}" if others else last
        raise UserError(
            f"`--overwrite` must replace {replaced}, but {dst} holds no {names}. "
            "Delete the folder yourself, or set another."
        )


@contextmanager
def new_folder(dst: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder to write into that becomes ``dst`` when the block ends, and vanishes if it fails.

    Args:
        needed_bytes: refuse if the disk has less room than this.
    """
    dst = dst.resolve()
    partial = dst.with_name(dst.name + ".partial")
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():  # left by a conversion that was killed
            shutil.rmtree(partial)
        partial.mkdir()
    except OSError as error:
        raise UserError(
            f"DST must be in a folder that can be written, but {dst} is not ({error.strerror}). "
            "Set another."
        ) from error
    try:
        free = shutil.disk_usage(partial).free
        if free < needed_bytes:
            raise UserError(
                f"DST must be on a disk with {needed_bytes:,} bytes free, but {dst.parent} has "
                f"{free:,}. Make room, or set another."
            )
        yield partial
        for path in partial.iterdir():
            flush(path)
        _replace(partial, dst)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(new: Path, dst: Path) -> None:
    """Rename ``new`` to ``dst``; what was there goes last, so that one of the two is always whole."""
    old = dst.with_name(dst.name + ".old")
    if dst.exists():
        if old.exists():
            shutil.rmtree(old)
        dst.rename(old)
    new.rename(dst)
    flush(dst.parent)
    if old.exists():
        shutil.rmtree(old)


def flush(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
