"""A checkpoint set replaces the one before it as a whole: a redo log of one record.

The steps of a save, by all saving ranks together:
(1) rank 0 finishes or drops what a killed save left (``end_killed_saves``);
(2) every rank writes its files as ``⟨file⟩.tmp``, flushes them, and tells the others size and checksum;
(3) one failure anywhere ends the save on every rank, and the old set stays as it was;
(4) rank 0 writes ``⟨stem⟩.manifest.json.pending``: from here on the new set counts;
(5) every rank renames its files into place;
(6) rank 0 renames the manifest into place and deletes files that only the old set had.

Killed before (4), the old set is whole; killed after it, ``recover`` carries out (5) and (6) from the
pending manifest. One that cannot be read as that of its own set moves and deletes nothing: it is set
aside. A state that is saved under several names (checkpoint_1_50, checkpoint_last) is written once and
linked, or copied where the disk has no links.
"""

import logging
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from metaseq_plugin.checkpoint.manifest import (
    MANIFEST_SUFFIX,
    PENDING_SUFFIX,
    FileName,
    Manifest,
    SetName,
    fault_of,
)
from metaseq_plugin.compat.errors import UserError, printable
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.storage import atomic, torch_file
from metaseq_plugin.storage.torch_file import Facts

logger = logging.getLogger(__name__)

UNREADABLE_SUFFIX = ".unreadable"


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
    on_first(ranks, lambda: end_killed_saves(save.folder))
    mine: Dict[FileName, Facts] = {}
    problem: Optional[str] = None
    try:
        for name, state in files:
            path = save.folder / str(name)
            mine[name] = torch_file.write(atomic.free_temporary(path), state)
            del state  # before the next one is made
            for stem in save.stems[1:]:
                other = save.folder / str(name._replace(stem=stem))
                atomic.link(atomic.temporary(path), atomic.temporary(other))
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
                pending = SetName(save.folder, manifest.stem).pending_path
                with atomic.replacing(pending) as unfinished:
                    unfinished.write_text(manifest.dump(), encoding="utf-8")
            atomic.flush(save.folder)
        except OSError as error:
            raise UserError(_unwritable(save.folder, error)) from error

    def finish() -> None:
        for manifest in manifests:
            _finish(save.folder, manifest)

    on_first(ranks, announce)
    for stem in save.stems:
        for name in mine:
            path = save.folder / str(name._replace(stem=stem))
            atomic.rename(atomic.temporary(path), path)
    ranks.barrier()
    on_first(ranks, finish)


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"A checkpoint must fit where it is saved, but {error.filename or folder} could not be "
        f"written ({error.strerror or error}). Make room, or save elsewhere."
    )


def _finish(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, the files being in theirs, and drop what it does not name."""
    atomic.flush(folder)
    name = SetName(folder, manifest.stem)
    atomic.rename(name.pending_path, name.manifest_path)
    atomic.flush(folder)
    for path in name.files():
        if path.name not in manifest.files:
            atomic.remove(path)


def end_killed_saves(folder: Path) -> None:
    """Finish or drop what killed saves left in ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    drop_temporaries(folder)


def recover(folder: Path) -> None:
    """Carry out, or drop, the saves into ``folder`` that were killed after they counted."""
    for path in sorted(folder.glob(f"*{PENDING_SUFFIX}")) if folder.is_dir() else ():
        name = SetName(folder, path.name.removesuffix(PENDING_SUFFIX))
        try:
            manifest = Manifest.read(path)
        except UserError as error:
            set_aside = path.with_name(path.name + UNREADABLE_SUFFIX)
            atomic.rename(path, set_aside)
            logger.warning(f"{error} It is called {printable(set_aside.name)} from now on.")
            continue
        if _roll_forward(folder, manifest):
            logger.warning(f"{name}: finished a save that was interrupted")
        elif _is_whole(name):
            logger.warning(
                f"{name}: dropped a save that was interrupted; the one before it is whole"
            )
            atomic.remove(path)


def _roll_forward(folder: Path, manifest: Manifest) -> bool:
    to_rename = []
    for file, facts in manifest.files.items():
        path = folder / file
        unfinished = atomic.temporary(path)
        is_ours = unfinished.is_file() and not unfinished.is_symlink()
        if is_ours and fault_of(unfinished, facts) is None:
            to_rename.append(path)
        elif fault_of(path, facts) is not None:
            return False
    for path in to_rename:
        atomic.rename(atomic.temporary(path), path)
    _finish(folder, manifest)
    return True


def _is_whole(name: SetName) -> bool:
    if not name.manifest_path.is_file():
        return False
    try:
        manifest = Manifest.read(name.manifest_path)
    except UserError:
        return False
    return all(fault_of(name.folder / f, facts) is None for f, facts in manifest.files.items())


def drop_temporaries(folder: Path) -> None:
    """Delete what killed saves wrote and never renamed, except what a pending manifest names."""
    named: Set[str] = set()
    for path in folder.glob(f"*{PENDING_SUFFIX}"):
        try:
            named.update(Manifest.read(path).files)
        except UserError:
            continue
    for path in folder.glob(f"*{atomic.TEMPORARY_SUFFIX}"):
        final = path.name.removesuffix(atomic.TEMPORARY_SUFFIX)
        is_ours = FileName.parse(final) is not None or final.endswith(
            (MANIFEST_SUFFIX, PENDING_SUFFIX)
        )
        if is_ours and final not in named:
            atomic.remove(path)


def delete(name: SetName) -> None:
    """Delete a whole set, its manifest first: what a kill leaves over is not a set any more."""
    if name.manifest_path.exists():
        atomic.remove(name.manifest_path)
    atomic.flush(name.folder)
    for path in name.files():
        atomic.remove(path)
