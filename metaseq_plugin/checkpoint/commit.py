"""A checkpoint set replaces the one before it as a whole: a redo log of one record.

The steps of a save, by all saving ranks together:
(1) rank 0 finishes or drops what a killed save left (``recover``);
(2) every rank writes its files as ``⟨file⟩.tmp``, flushes them, and tells the others size and checksum;
(3) one failure anywhere ends the save on every rank, and the old set stays as it was;
(4) rank 0 writes ``⟨stem⟩.manifest.json.pending``: from here on the new set counts;
(5) every rank renames its files into place;
(6) rank 0 renames the manifest into place and deletes files that only the old set had.

Killed before (4), the old set is whole; killed after it, ``recover`` carries out (5) and (6) from the
pending manifest. A state that is saved under several names (checkpoint_1_50, checkpoint_last) is
written once and linked, or copied where the disk has no links.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metaseq_plugin.checkpoint.manifest import (
    MANIFEST_SUFFIX,
    PENDING_SUFFIX,
    TEMPORARY_SUFFIX,
    FileName,
    Manifest,
    SetName,
    fault_of,
)
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.storage.atomic import flush
from metaseq_plugin.storage.torch_file import Facts

logger = logging.getLogger(__name__)


class Save(NamedTuple):
    """What is the same for every file and every name of one save."""

    folder: Path
    stems: Sequence[str]
    num_updates: int
    epoch: int
    saved_at: float
    layout: Layout


def commit(save: Save, files: Iterable[Tuple[FileName, Any]], ranks: Ranks) -> None:
    """Write this rank's ``files`` ((name under the first stem, state) each), as part of the set.

    Raises:
        UserError: on all ranks, naming the file that could not be written.
    """
    on_first(ranks, lambda: prepare(save.folder))
    mine: Dict[FileName, Facts] = {}
    problem: Optional[str] = None
    try:
        for name, state in files:
            path = save.folder / str(name)
            mine[name] = _write(_temporary(path), state)
            del state  # before the next one is made
            for stem in save.stems[1:]:
                link(_temporary(path), _temporary(save.folder / str(name._replace(stem=stem))))
    except OSError as error:
        problem = _unwritable(save.folder, error)
    gathered: List[Tuple[Dict[FileName, Facts], Optional[str]]] = ranks.all_gather((mine, problem))
    problems = [other for _, other in gathered if other is not None]
    if problems:
        ranks.barrier()  # a slower rank may still write
        on_first(ranks, lambda: drop_temporaries(save.folder))
        raise UserError(problems[0])
    facts = {name: fact for files_of_rank, _ in gathered for name, fact in files_of_rank.items()}
    _publish(save, facts, list(mine), ranks)


def _publish(
    save: Save, facts: Dict[FileName, Facts], mine: Sequence[FileName], ranks: Ranks
) -> None:
    manifests = [
        Manifest(
            stem, save.num_updates, save.epoch, save.saved_at, save.layout,
            {str(name._replace(stem=stem)): fact for name, fact in facts.items()},
        )
        for stem in save.stems
    ]  # fmt: skip

    def announce() -> None:
        try:
            for manifest in manifests:
                name = SetName(save.folder, manifest.stem)
                _write_text(name.pending_path, manifest.dump())
            flush(save.folder)
        except OSError as error:
            raise UserError(_unwritable(save.folder, error)) from error

    def finish() -> None:
        for manifest in manifests:
            _finish(save.folder, manifest)

    on_first(ranks, announce)
    for stem in save.stems:
        for name in mine:
            path = save.folder / str(name._replace(stem=stem))
            os.replace(_temporary(path), path)
    ranks.barrier()
    on_first(ranks, finish)


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"A checkpoint must fit where it is saved, but {error.filename or folder} could not be "
        f"written ({error.strerror or error}). Make room, or save elsewhere."
    )


def _finish(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, the files being in theirs, and drop what it does not name."""
    flush(folder)
    name = SetName(folder, manifest.stem)
    os.replace(name.pending_path, name.manifest_path)
    flush(folder)
    for path in name.files():
        if path.name not in manifest.files:
            path.unlink()


def prepare(folder: Path) -> None:
    """Make ``folder`` ready for a save: nothing is left of one that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    drop_temporaries(folder)


def recover(folder: Path) -> None:
    """Carry out, or drop, the saves into ``folder`` that were killed after they counted."""
    for path in sorted(folder.glob(f"*{PENDING_SUFFIX}")) if folder.is_dir() else ():
        name = SetName(folder, path.name.removesuffix(PENDING_SUFFIX))
        try:
            manifest = Manifest.read(path)
        except UserError:
            manifest = None
        if manifest is not None and _roll_forward(folder, manifest):
            logger.warning(f"{name}: finished a save that was interrupted")
        elif _is_whole(name):
            logger.warning(
                f"{name}: dropped a save that was interrupted; the one before it is whole"
            )
            path.unlink()


def _roll_forward(folder: Path, manifest: Manifest) -> bool:
    to_rename = []
    for file, facts in manifest.files.items():
        path = folder / file
        if _temporary(path).is_file() and fault_of(_temporary(path), facts) is None:
            to_rename.append(path)
        elif fault_of(path, facts) is not None:
            return False
    for path in to_rename:
        os.replace(_temporary(path), path)
    _finish(folder, manifest)
    return True


def _is_whole(name: SetName) -> bool:
    if not name.manifest_path.is_file():
        return False
    manifest = Manifest.read(name.manifest_path)
    return all(fault_of(name.folder / f, facts) is None for f, facts in manifest.files.items())


def drop_temporaries(folder: Path) -> None:
    """Delete what killed saves wrote and never renamed, except what a pending manifest names."""
    named: Set[str] = set()
    for path in folder.glob(f"*{PENDING_SUFFIX}"):
        try:
            named.update(Manifest.read(path).files)
        except UserError:
            continue
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        final = path.name.removesuffix(TEMPORARY_SUFFIX)
        is_ours = FileName.parse(final) is not None or final.endswith(
            (MANIFEST_SUFFIX, PENDING_SUFFIX)
        )
        if is_ours and final not in named:
            path.unlink()


def delete(name: SetName) -> None:
    """Delete a whole set, its manifest first: what a kill leaves over is not a set any more."""
    name.manifest_path.unlink(missing_ok=True)
    flush(name.folder)
    for path in name.files():
        path.unlink()


class _HashingFile:
    """A file that knows the checksum of what was written to it, and the error that ended it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("wb")
        self.digest = hashlib.sha256()
        self.num_bytes = 0
        self.error: Optional[OSError] = None

    def write(self, data: Any) -> int:
        try:
            self.stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.num_bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.stream.flush()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()

    def close(self) -> Facts:
        with self.stream:
            self.stream.flush()
            os.fsync(self.stream.fileno())
        return Facts(self.num_bytes, self.digest.hexdigest())


def _write(path: Path, state: Any) -> Facts:
    """torch.save ``state`` to ``path`` and flush it to the disk; its size and checksum."""
    try:
        file: Any = _HashingFile(path)
        try:
            torch.save(tree_map_only(Tensor, own_memory, state), file)
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
    is_all = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_all else tensor.clone()


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        flush(target)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def _write_text(path: Path, text: str) -> None:
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
