"""The disk as everyone here changes it: whole or not at all, and there after a power cut.

    with replacing(target) as unfinished:      # a file: written beside, flushed, renamed
        unfinished.write_bytes(content)
    with new_folder(dst, needed_bytes) as partial:   # a folder: the same
        …

Whoever needs the steps apart (a checkpoint set, whose files become visible together) takes them one by
one: ``temporary`` names, ``flush``, ``rename``, ``link``, ``remove``. They are called as
``atomic.rename(…)``, so that a test of faults puts its own in their place here, once for all callers.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Sequence

from metaseq_plugin.compat.errors import UserError

TEMPORARY_SUFFIX = ".tmp"


def temporary(path: Path) -> Path:
    """What ``path`` is called until it is whole."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def flush(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Call ``source`` ``target``; what was called so is gone at the same moment."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Delete a file."""
    path.unlink()


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it where the disk has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        flush(target)


@contextmanager
def replacing(target: Path, unfinished: Optional[Path] = None) -> Iterator[Path]:
    """A path to write to that takes the name ``target`` when the block ends, and is gone if it fails.

    Args:
        unfinished: its name until then, in the folder of ``target``; default: ``temporary(target)``,
            which two processes at once would share.
    """
    unfinished = unfinished or temporary(target)
    try:
        yield unfinished
        flush(unfinished)
        rename(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def check_destination(
    dst: Path, src: Path, overwrite: bool, replaced: str, marks: Sequence[str]
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
        if partial.exists():  # left by a command that was killed
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
        _replace_folder(partial, dst)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace_folder(new: Path, dst: Path) -> None:
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
