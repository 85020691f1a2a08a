"""From places in files to tokens, in worker processes, given back in the order of asking.

(1) ``ranges`` cuts the order into runs of documents of about RANGE_BYTES and says where they lie;
(2) ``Reader.tokenise`` reads, parses and tokenises one run: a pure function of it;
(3) ``Workers`` does that in processes, or in this one, a bounded number of runs ahead.

A document becomes its tokens and ``</s>``, without ``<s>``; white space at its end is dropped, as
metaseq drops it, and what is empty then has no tokens at all. A bad document is an error, or, when
bad ones are to be skipped, has no tokens and a sentence about it.
"""

import os
from collections import Counter, OrderedDict, deque
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import pairwise
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.parsing import TEXT, parse_fields
from metaseq_plugin.data.documents.reading import BYTE_ORDER_MARK, MAX_DOCUMENT_BYTES, RawDocument
from metaseq_plugin.data.processes import call_inherited, killed_means, process_pool
from metaseq_plugin.data.streaming.corpora import Corpora, Places
from metaseq_plugin.data.streaming.index import ChangedFileError, changed
from metaseq_plugin.data.streaming.line_scan import line_number
from metaseq_plugin.data.streaming.order import DocumentOrder
from metaseq_plugin.tokenizers.base import EOS, Tokenizer
from metaseq_plugin.tokenizers.dictionary import token_dtype

RANGE_BYTES = 1_048_576
RANGE_DOCUMENTS = 2_048
RANGES_AHEAD = 2  # of each worker
OPEN_FILES = 128  # of each process
NAMED_PROBLEMS = 20  # bad documents that are named one by one; all are counted
END = np.array([EOS])


class Range(NamedTuple):
    """Documents [first, first + D) of the order."""

    first: int
    corpora: np.ndarray  # (D,)
    places: Places


class Tokenised(NamedTuple):
    """The tokens of D documents one behind the other."""

    tokens: np.ndarray  # (sum of sizes,) of the narrowest type that holds the dictionary
    sizes: np.ndarray  # (D,) tokens with </s>; 0 for a document that is empty or bad
    is_bad: np.ndarray  # (D,)
    problems: list[str]  # a sentence for each that is bad, but NAMED_PROBLEMS of a file at most


def ranges(order: DocumentOrder, corpora: Corpora, first: int) -> Iterator[Range]:
    """All documents of the order from number ``first`` on."""
    while first < len(order):
        last = min(first + RANGE_DOCUMENTS, len(order))
        corpus, document = order.lookup(first, last)
        places = corpora.places(corpus, document)
        run = np.cumsum(places.size) // RANGE_BYTES
        cuts = [0, *(np.flatnonzero(np.diff(run)) + 1), last - first]
        for begin, end in pairwise(cuts):
            part = slice(int(begin), int(end))
            where = Places(places.files, places.file[part], places.start[part], places.size[part])
            yield Range(first + int(begin), corpus[part], where)
        first = last


def gone(name: str, error: OSError) -> ChangedFileError:
    """The error for a file that could be read when the run began."""
    return ChangedFileError(
        f"A corpus file must stay where it is during a run, but {name} can no longer be read "
        f"({error.strerror}). Put it back and resume from the last checkpoint."
    )


class Reader:
    """Reads and tokenises documents wherever they lie, with a bounded number of open files."""

    keys: Sequence[str] = TEXT  # of a JSON record

    def __init__(self, tokenizer: Tokenizer, skips_bad: bool) -> None:
        self.tokenizer, self.skips_bad = tokenizer, skips_bad
        self.dtype = token_dtype(len(tokenizer))
        self.open_files: OrderedDict[str, int] = OrderedDict()
        self.num_named: Counter[str] = Counter()  # bad documents of each file

    def _open(self, path: str) -> int:
        if path in self.open_files:
            self.open_files.move_to_end(path)
            return self.open_files[path]
        if len(self.open_files) >= OPEN_FILES:
            os.close(self.open_files.popitem(last=False)[1])
        self.open_files[path] = os.open(path, os.O_RDONLY)
        return self.open_files[path]

    def _checked(self, files: Iterable[tuple[str, str, int, int]]) -> None:
        """Raise UserError if a file is not what was indexed."""
        for name, path, size, mtime_ns in files:
            try:
                status = os.stat(path)
                self._open(path)
            except OSError as error:
                raise gone(name, error) from error
            if status.st_size != size:
                raise changed(Path(name), f"{size:,} bytes", f"{status.st_size:,}")
            if status.st_mtime_ns != mtime_ns:
                raise changed(Path(name), "one time of change", "another")

    def _fields(
        self, file: tuple[str, str, int, int], start: int, size: int, line: int = 0
    ) -> list[str]:
        """The strings of a document; UserError, which says ``line``, if it is bad."""
        name, path, whole_size, _ = file
        if size > MAX_DOCUMENT_BYTES:
            raise UserError(
                f"A document must have at most {MAX_DOCUMENT_BYTES:,} bytes, but the one at line "
                f"{line} of {name} (byte {start}) has {size:,}. Cut it."
            )
        try:
            file_number = self._open(path)
            content = os.pread(file_number, size, start)
            size_now = os.fstat(file_number).st_size
        except OSError as error:
            raise gone(name, error) from error
        if len(content) < size:
            raise changed(Path(name), f"{whole_size:,} bytes", f"{size_now:,}")
        if start == 0:
            content = content.removeprefix(BYTE_ORDER_MARK)
        # Blank lines behind a document belong to it here; without them error offsets are the same.
        return parse_fields(RawDocument(name, line, start, content.rstrip()), self.keys)

    def _problem(self, file: tuple[str, str, int, int], start: int, size: int) -> list[str]:
        """What is wrong with a document and in which line; nothing for more than are named of a file.

        To tell the line takes reading all that stands before it.
        """
        path = file[1]
        self.num_named[path] += 1
        if self.skips_bad and self.num_named[path] > NAMED_PROBLEMS:
            return []
        try:
            self._fields(file, start, size, line_number(Path(path), start))
        except OSError as error:
            raise gone(file[0], error) from error
        except ChangedFileError:
            raise
        except UserError as error:
            return [str(error)]
        raise AssertionError(f"{path}, byte {start}: bad and good")

    def _encode(self, documents: list[list[str]]) -> Iterable[np.ndarray]:
        """The tokens of each, without ``</s>``."""
        return self.tokenizer.encode_batch([text for (text,) in documents])

    def tokenise(self, places: Places) -> Tokenised:
        """The tokens of the documents at ``places``."""
        self._checked(places.files)
        documents: list[list[str]] = []
        kept: list[int] = []
        problems: list[str] = []
        is_bad = np.zeros(len(places.file), dtype=bool)
        rows = zip(places.file.tolist(), places.start.tolist(), places.size.tolist())
        for number, (file, start, size) in enumerate(rows):
            try:
                fields = self._fields(places.files[file], start, size)
            except ChangedFileError:
                raise
            except UserError as error:
                problems += self._problem(places.files[file], start, size)
                if not self.skips_bad:
                    raise UserError(f"{problems[0]} Or set --skip-bad-documents.") from error
                is_bad[number] = True
                continue
            fields[-1] = fields[-1].rstrip()
            if fields[-1]:
                documents.append(fields)
                kept.append(number)
        pieces: list[np.ndarray] = []
        sizes = np.zeros(len(places.file), dtype=np.int64)
        for number, ids in zip(kept, self._encode(documents), strict=True):
            pieces += [ids, END]
            sizes[number] = len(ids) + 1
        tokens = np.concatenate(pieces) if pieces else np.zeros(0)
        return Tokenised(tokens.astype(self.dtype), sizes, is_bad, problems)


class PairReader(Reader):
    """Reads records of ``src`` and ``tgt``: the loss is to be on the target's tokens alone.

    A token t of the source is given as ~t, which is negative, so that it stays what it is wherever
    blocks are cut; ``rounds`` makes a token without a target of it. The target begins with the blank
    that joins the two, as words do.
    """

    keys = ("src", "tgt")

    def __init__(self, tokenizer: Tokenizer, skips_bad: bool) -> None:
        super().__init__(tokenizer, skips_bad)
        self.dtype = np.dtype(np.int32)

    def _encode(self, documents: list[list[str]]) -> Iterable[np.ndarray]:
        sources = self.tokenizer.encode_batch([source.rstrip(" ") for source, _ in documents])
        targets = self.tokenizer.encode_batch([" " + target for _, target in documents])
        for source, target in zip(sources, targets, strict=True):
            yield np.concatenate([~source.astype(np.int64), target])


class Workers:
    """``num_workers`` processes around a reader; 0 means this process. One object serves a run."""

    def __init__(self, reader: Reader, num_workers: int) -> None:
        self.reader, self.num_workers = reader, num_workers
        self.pool: Optional[ProcessPoolExecutor] = None
        self._end: Optional[Finalize] = None

    def _submit(self, places: Places) -> "Future[Tokenised]":
        if self.pool is None:  # forked late: a run that only validates elsewhere needs none
            self.pool = process_pool(self.num_workers, self.reader.tokenise)
            # A rank that fairseq spawned joins its children at its end, before Python shuts pools
            # down, and after the queue to them has gone (priority 10).
            how = {"wait": True, "cancel_futures": True}
            self._end = Finalize(None, self.pool.shutdown, kwargs=how, exitpriority=20)
        return self.pool.submit(call_inherited, places)

    def tokenised(
        self, runs: Iterator[Range], min_ahead_bytes: int
    ) -> Iterator[tuple[Range, Tokenised]]:
        """Every run with its tokens, in order.

        Args:
            min_ahead_bytes: of text that may be tokenised before it is asked for; a run or two a
                worker always are.
        """
        if self.num_workers == 0:
            for run in runs:
                yield run, self.reader.tokenise(run.places)
            return
        waiting: deque[tuple[Range, Future[Tokenised]]] = deque()
        ahead_bytes = 0
        max_waiting = RANGES_AHEAD * self.num_workers
        killed = killed_means(
            "A data worker must not be killed, but one was; perhaps memory ran out. Resume from the "
            "last checkpoint, with fewer `--num-workers`: the samples will be the same."
        )
        try:
            with killed:
                for run in runs:
                    waiting.append((run, self._submit(run.places)))
                    ahead_bytes += int(run.places.size.sum())
                    while len(waiting) > max_waiting and ahead_bytes > min_ahead_bytes:
                        done, future = waiting.popleft()
                        ahead_bytes -= int(done.places.size.sum())
                        yield done, future.result()
                while waiting:
                    done, future = waiting.popleft()
                    yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes."""
        if self._end is not None:
            self._end()
        self.pool, self._end = None, None
