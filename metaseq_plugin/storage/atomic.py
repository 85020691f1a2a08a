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
from typing import Callable, Iterator, List, Optional, Sequence
from uuid import uuid4

from metaseq_plugin.compat.errors import UserError

# Nobody's but ours: what killed commands left is known by it, and removed.
TEMPORARY_SUFFIX = ".metaseq-tmp"
PARTIAL_SUFFIX, OLD_SUFFIX = ".partial", ".old"


def temporary(path: Path) -> Path:
    """What ``path`` is called until it is whole."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def free_temporary(path: Path) -> Path:
    """``temporary(path)``, free to be written: what a killed process left there, or a link, is gone."""
    unfinished = temporary(path)
    unfinished.unlink(missing_ok=True)
    return unfinished


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
    unfinished = unfinished or free_temporary(target)
    try:
        yield unfinished
        flush(unfinished)
        rename(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def check_destination(
    dst: Path, src: Path, overwrite: bool, replaced: str, made: Callable[[Path], Sequence[str]]
) -> None:
    """Refuse to write to ``dst`` where that would lose something.

    Args:
        replaced: what ``overwrite`` may replace, in words.
        made: what of a folder its command made, names as ``files_below`` gives them; nothing if it is none.
    """
    if dst.resolve() == src.resolve() or dst.resolve() in src.resolve().parents:
        raise UserError(f"DST must not be SRC or a folder around it, but is {dst}. Set another.")
    if dst.is_symlink() and not dst.exists():
        raise UserError(f"DST must be a folder to make, but {dst} is a link to nothing. Remove it.")
    if not dst.exists():
        return
    if not dst.is_dir():
        raise UserError(f"DST must be a folder to make, but {dst} is a file. Set another.")
    entries = files_below(dst)
    if not any(dst.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"DST must not exist yet, but {dst} does. Set another, or replace it with --overwrite."
        )
    own = set(made(dst))
    strangers = [name for name in entries if name not in own or (dst / name).is_symlink()]
    if not own or strangers:
        found = strangers[0] if strangers else "nothing of the kind"
        raise UserError(
            f"`--overwrite` must replace {replaced} and nothing else, but {dst} holds {found}. "
            "Move that elsewhere, delete the folder yourself, or set another."
        )


def files_below(folder: Path) -> List[str]:
    """Every file and link in and below ``folder``, relative to it, sorted; links are not followed."""
    return sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder)
        for name in (*files, *(name for name in folders if Path(parent, name).is_symlink()))
    )


def matching(folder: Path, marks: Sequence[str], others: Sequence[str]) -> List[str]:
    """What in ``folder`` has the name of a pattern; nothing where no file has one of the ``marks``."""
    if not any(any(folder.glob(mark)) for mark in marks):
        return []
    return [path.name for pattern in (*marks, *others) for path in folder.glob(pattern)]


@contextmanager
def new_folder(dst: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder to write into that becomes ``dst`` when the block ends, and vanishes if it fails.

    Its name until then is nobody's: what is not made here is not deleted, a leftover of a command that was
    killed neither.

    Args:
        needed_bytes: refuse if the disk has less room than this.
    """
    dst = dst.resolve()
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        partial = _unused(dst, PARTIAL_SUFFIX)
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


def _unused(dst: Path, suffix: str) -> Path:
    """A name beside ``dst`` that nobody has."""
    return dst.with_name(f"{dst.name}.{uuid4().hex[:12]}{suffix}")


def _replace_folder(new: Path, dst: Path) -> None:
    """Rename ``new`` to ``dst``; what was there goes last, so that one of the two is always whole."""
    old = None
    if dst.exists():
        old = _unused(dst, OLD_SUFFIX)
        rename(dst, old)
    rename(new, dst)
    flush(dst.parent)
    if old is not None:
        shutil.rmtree(old)
