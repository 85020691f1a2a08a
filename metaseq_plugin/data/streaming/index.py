"""Where every document of a corpus file begins, found once and kept.

    .wiki.jsonl.index.npy     int64: FORMAT, size and mtime_ns of wiki.jsonl, then the starts in bytes
                              of its documents, then its (unpacked) size
    .books.txt.gz.text        the unpacked copy of a packed file, which random access needs; as large
                              as the text
    .index.lock               held while the files of a folder are indexed

They lie beside the file, or in ``--index-cache-dir``, or, where the folder cannot be written, in the
user's cache folder. The steps:
(1) take the index that fits the file's size and time, if there is one;
(2) else wait for the folder's lock, which dies with its owner, look again, and scan the file in parts
    on all cores;
(3) write to a temporary name and rename: an index is whole or not there.
"""

import fcntl
import hashlib
import io
import logging
import multiprocessing
import os
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence
from uuid import uuid4

import numpy as np
import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.reading import DAMAGED, document_format, open_input, unpacked
from metaseq_plugin.data.processes import available_cores, killed_means, process_pool
from metaseq_plugin.data.streaming.files import readable
from metaseq_plugin.data.streaming.line_scan import Part, joined, scan
from metaseq_plugin.storage import atomic
from metaseq_plugin.storage.locks import NO_LOCKS, opened

logger = logging.getLogger(__name__)

FORMAT = 1  # raise it when the same file would give another index
ITEM_BYTES = 8
HEADER = 3  # numbers before the first start
PART_BYTES = 67_108_864
CACHE_OPTION = "--index-cache-dir"


class IndexedFile(NamedTuple):
    """A corpus file that can be read at any document."""

    path: Path  # as the user knows it
    text: Path  # what is read: the file itself, or its unpacked copy
    size: int  # of ``text`` when it was indexed, bytes
    mtime_ns: int
    starts: np.ndarray  # (documents + 1,) int64, mapped from disk; the last is ``size``
    place: Path  # where ``starts`` lies

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    @property
    def num_bytes(self) -> int:
        """Of the documents."""
        return int(self.starts[-1] - self.starts[0])

    def places(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the given documents (D,) begin and how long they are, in bytes.

        Raises:
            UserError: the index was cut off since it was mapped, or is none of this file.
        """
        rule = f"{self.place} must be the index of {self.path}"
        try:
            is_whole = self.place.stat().st_size >= _index_bytes(len(self.starts))
        except FileNotFoundError:  # what is mapped stays what it was
            is_whole = True
        if not is_whole:  # to read what is no longer there would kill the process
            raise UserError(f"{rule}, but was cut off. Remove it, and resume.")
        start, size = self.starts[documents], self.starts[documents + 1] - self.starts[documents]
        if (start < 0).any() or (size < 0).any() or (start + size > self.size).any():
            raise UserError(f"{rule}, but names places outside of it. Remove it, and resume.")
        return start, size


def is_packed(path: Path) -> bool:
    return path.name.lower().endswith((".gz", ".zst"))


def cache_names(path: Path, cache_dir: Optional[str]) -> list[Path]:
    """Where the index of ``path`` may lie, without its ending; the last is where it is made."""
    beside = path.parent / f".{path.name}"
    full = str(path.absolute())
    name = f"{hashlib.sha256(full.encode()).hexdigest()[:16]}.{path.name}"
    if cache_dir is not None:
        return [Path(cache_dir) / name]
    if os.access(path.parent, os.W_OK):
        return [beside]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [beside, home / "metaseq_plugin" / "index" / name]


def _index_of(base: Path) -> Path:
    return base.with_name(base.name + ".index.npy")


def _text_of(path: Path, base: Path) -> Path:
    return base.with_name(base.name + ".text") if is_packed(path) else path


def _header(count: int) -> bytes:
    """How NumPy begins a file of ``count`` int64."""
    stream = io.BytesIO()
    kind = {"descr": "<i8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(stream, kind)
    return stream.getvalue()


def _index_bytes(num_starts: int) -> int:
    count = HEADER + num_starts
    return len(_header(count)) + count * ITEM_BYTES


def _mapped(path: Path) -> np.ndarray:
    """The numbers of an index, mapped from disk; OSError or ValueError where it is not whole.

    NumPy's own map would hold the file open as long as it lives, and a split has thousands of files. Its
    header is an expression of Python's, so it is compared with the one that we would write, not evaluated.
    """
    with path.open("rb") as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        count = (num_bytes - len(_header(0))) // ITEM_BYTES
        header = _header(max(count, 0))
        if stream.read(len(header)) != header or num_bytes != len(header) + count * ITEM_BYTES:
            raise ValueError(f"{path} is not an index")
    size, first = num_bytes // ITEM_BYTES, len(header) // ITEM_BYTES
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.int64).numpy()[first:]


def _load(path: Path, base: Path) -> Optional[IndexedFile]:
    """The index at ``base`` if it is whole and belongs to ``path`` as it is now."""
    status = readable(path)
    text, place = _text_of(path, base), _index_of(base)
    try:
        index = _mapped(place)
        text_status = text.stat()
    except (OSError, ValueError, RuntimeError):
        return None
    expected = [FORMAT, status.st_size, status.st_mtime_ns]
    if len(index) <= HEADER or list(index[:HEADER]) != expected:
        return None
    starts = index[HEADER:]
    if int(starts[-1]) != text_status.st_size or not 0 <= int(starts[0]) <= int(starts[-1]):
        return None
    return IndexedFile(path, text, text_status.st_size, text_status.st_mtime_ns, starts, place)


def find_index(path: Path, cache_dir: Optional[str]) -> Optional[IndexedFile]:
    """The index of ``path`` if it was made before and still fits."""
    found = (_load(path, base) for base in cache_names(path, cache_dir))
    return next((index for index in found if index is not None), None)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in ``folder``, as far as its file system can say; leftovers of the killed are removed."""
    with opened(folder / ".index.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(f"{folder} has no locks: several ranks may index the same files")
        else:
            for leftover in folder.glob(f".*{atomic.TEMPORARY_SUFFIX}"):
                leftover.unlink(missing_ok=True)
        try:
            yield
        finally:
            # Closing alone does not: the pool's processes, forked in here, have the file open too.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)


def _temporary(target: Path) -> Path:
    """A name for ``target`` until it is whole, hidden and no other process's."""
    # Not by the process's number, which ranks in containers have in common where there are no locks.
    return target.with_name(f".{target.name.lstrip('.')}.{uuid4().hex}{atomic.TEMPORARY_SUFFIX}")


def _unpack(path: Path, target: Path) -> None:
    try:
        with atomic.replacing(target, _temporary(target)) as unfinished:
            with open_input(path) as raw, unfinished.open("wb") as out:
                shutil.copyfileobj(unpacked(path, raw), out, PART_BYTES // 16)
            # A copy that another rank makes once more is the same file to those that read it already.
            status = path.stat()
            os.utime(unfinished, ns=(status.st_atime_ns, status.st_mtime_ns))
    except DAMAGED as error:
        raise UserError(
            f"A packed file must be whole, but {path} is not ({error}). Make it again."
        ) from error


def _scan_parts(pool: ProcessPoolExecutor, path: Path, text: Path) -> list["Future[Part]"]:
    size = text.stat().st_size
    by_blank_line = document_format(path) == ".txt"
    return [
        pool.submit(scan, text, begin, min(begin + PART_BYTES, size), by_blank_line)
        for begin in range(0, size, PART_BYTES)
    ]


def _build(pool: ProcessPoolExecutor, files: Sequence[tuple[Path, Path]]) -> None:
    """Index ``files``, pairs of a file and the base name of its index."""
    before = [readable(path) for path, _ in files]
    unpacking = [
        pool.submit(_unpack, path, _text_of(path, base)) for path, base in files if is_packed(path)
    ]
    for copy in unpacking:
        copy.result()
    scans = [_scan_parts(pool, path, _text_of(path, base)) for path, base in files]
    for (path, base), status, parts in zip(files, before, scans, strict=True):
        found = [part.result() for part in parts]
        starts = joined(found, document_format(path) == ".txt")
        after = readable(path)
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise changed(path, f"{status.st_size:,} bytes", f"{after.st_size:,}")
        header = [FORMAT, status.st_size, status.st_mtime_ns]
        end = _text_of(path, base).stat().st_size
        index = np.concatenate([header, starts, [end]]).astype(np.int64)
        target = _index_of(base)
        with (
            atomic.replacing(target, _temporary(target)) as unfinished,
            unfinished.open("wb") as stream,
        ):
            np.save(stream, index)


class ChangedFileError(UserError):
    """A file is not what it was; no document of it can be trusted."""


def changed(path: Path, before: str, after: str) -> ChangedFileError:
    """The error for a file that had ``before`` and has ``after``."""
    return ChangedFileError(
        f"A corpus file must not change while it is read, but {path} had {before} and has {after}. "
        "Put it back, or start again from a checkpoint with --reset-dataloader."
    )


def indexed(paths: Sequence[Path], cache_dir: Optional[str]) -> list[IndexedFile]:
    """The indexes of ``paths``, made where they are missing or old."""
    found = {path: find_index(path, cache_dir) for path in paths}
    missing: dict[Path, list[tuple[Path, Path]]] = {}
    for path in paths:
        if found[path] is None:
            base = cache_names(path, cache_dir)[-1]
            missing.setdefault(base.parent, []).append((path, base))
    if missing:
        found.update(_build_missing(missing, cache_dir))
    for path in paths:
        if found[path] is None:
            raise changed(path, "an index", "another size or time")
    return [index for path in paths if (index := found[path]) is not None]


def _build_missing(
    missing: dict[Path, list[tuple[Path, Path]]], cache_dir: Optional[str]
) -> dict[Path, Optional[IndexedFile]]:
    made: dict[Path, Optional[IndexedFile]] = {}
    logger.info(f"indexing {sum(map(len, missing.values())):,} files")
    others = set(multiprocessing.active_children())
    pool = process_pool(available_cores())
    folder, is_done = None, False
    try:
        for folder, files in missing.items():
            folder.mkdir(parents=True, exist_ok=True)
            killed = killed_means(
                f"A process that indexes must not be killed, but one of {folder} was; perhaps memory "
                "ran out. Run the same command again: finished indexes are kept."
            )
            with killed, _locked(folder):
                # Another rank may have made them while this one waited.
                _build(pool, [pair for pair in files if find_index(pair[0], cache_dir) is None])
                # Taken under the lock: another machine, whose copy of a file has another time, may
                # put its own into the same --index-cache-dir next.
                made.update({path: find_index(path, cache_dir) for path, _ in files})
        is_done = True
    except OSError as error:
        raise UserError(
            f"`{CACHE_OPTION}` must be a folder that can be written and has room, but "
            f"{folder} is not ({error.strerror or error}). Set another one."
        ) from error
    finally:
        if not is_done:  # a mistake or Ctrl-C need not wait until a large file is unpacked
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
    return made
