"""Copy a corpus without its debris: bad and too short or long documents, copies, stray characters.

    metaseq data clean DATA CLEANED
    metaseq data clean corpus.jsonl.zst CLEANED --min-characters 200 --near-duplicates 0.9
    metaseq data clean DATA CLEANED --near-duplicates 1

CLEANED gets the files of DATA under the same names, packed as they were, and clean.json, which says what
was dropped and why. What stays keeps its order; a record keeps its other keys. DATA is not touched.
CLEANED appears whole or not at all, and is the same for any number of --workers.

The steps, over chunks of the corpus in its order:
(1) in the workers, each document is parsed, its text mended and measured (judging.py);
(2) here, in order, it is held against those that stay: an exact copy, or nearly one (duplicates.py),
    is dropped. Of copies the first stays, but one in a validation split stays rather than one in train;
(3) what stays is written.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.chunks import progress_bar, read_chunks
from metaseq_plugin.data.documents.reading import SplitDocuments
from metaseq_plugin.data.processes import add_workers_option, check_workers, in_order
from metaseq_plugin.data.tools.clean.duplicates import StayingDocuments
from metaseq_plugin.data.tools.clean.judging import Judged, Reason, Rules, judge
from metaseq_plugin.data.tools.clean.report import CleaningReport
from metaseq_plugin.data.tools.clean.writing import CorpusWriter
from metaseq_plugin.data.tools.corpus_files import CORPUS_HELP, TOKENIZER, CorpusFile, corpus_files
from metaseq_plugin.data.tools.tables import show
from metaseq_plugin.storage import json_file
from metaseq_plugin.storage.atomic import check_destination, new_folder

REPORT_FILE = "clean.json"
# Half a sentence; what stands between blank lines of a play is often little more.
MIN_CHARACTERS = 20
MAX_CHARACTERS = 10_000_000  # three times War and Peace: longer ones are dumps of data, as a rule
THRESHOLD = 0.8
SPLITS = (SplitDocuments.blank_line, SplitDocuments.line)  # what can be written as it was read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", metavar="SRC", help=CORPUS_HELP)
    add("dst", metavar="DST", type=Path, help="folder to make")
    add("--min-characters", type=int, default=MIN_CHARACTERS, metavar="N",
        help="drop shorter documents (default: %(default)s)")  # fmt: skip
    add("--max-characters", type=int, default=MAX_CHARACTERS, metavar="N",
        help="drop longer documents (default: %(default)s)")  # fmt: skip
    add("--near-duplicates", type=float, default=THRESHOLD, metavar="J", help="drop a document whose "
        "runs of five words are those of an earlier one to this share (Jaccard similarity, estimated) "
        "or more; 1 for exact copies only (default: %(default)s)")  # fmt: skip
    add("--split-documents", choices=[choice.value for choice in SPLITS], default=SPLITS[0].value,
        help="what one document of a .txt file is (default: %(default)s)")  # fmt: skip
    add_workers_option(parser)
    add("--overwrite", action="store_true", help="replace an earlier result in DST")


def run(args: argparse.Namespace) -> None:
    """Make DST; raises UserError for any mistake, and leaves nothing half-written."""
    _check_options(args)
    files = corpus_files(args.src)
    source = Path(args.src)
    check_destination(args.dst, source, args.overwrite, "a cleaned corpus", _made)
    if source.resolve() in args.dst.resolve().parents:
        raise UserError(f"DST must not be in SRC, but is {args.dst}. Set another.")
    rules = Rules(args.min_characters, args.max_characters, args.near_duplicates,
                  SplitDocuments(args.split_documents))  # fmt: skip
    num_bytes = sum(file.path.stat().st_size for file in files)
    report = CleaningReport(files, rules._asdict())
    try:
        with new_folder(args.dst, num_bytes) as partial_dst:
            _clean(files, rules, args.workers, partial_dst, report)
            if source.is_dir():
                _copy_tokenizer(source, partial_dst)
            json_file.write(partial_dst / REPORT_FILE, report.as_json())
    except OSError as error:
        raise UserError(
            f"DST must be a folder that can be written and has room, but {args.dst} is not "
            f"({error.strerror}). Set another, or make room."
        ) from error
    show(report.as_text(args.dst / REPORT_FILE))


def _made(folder: Path) -> list[str]:
    """The files of a cleaned corpus; none of a folder that is no such."""
    if not (folder / REPORT_FILE).is_file():
        return []
    files = json_file.read(folder / REPORT_FILE).get("files")
    return [REPORT_FILE, *TOKENIZER, *(files if isinstance(files, list) else ())]


def _check_options(args: argparse.Namespace) -> None:
    if not 0 <= args.min_characters <= args.max_characters:
        raise UserError(
            f"`--min-characters` must be between 0 and {args.max_characters:,}, but is "
            f"{args.min_characters:,}. Set it within these bounds."
        )
    check_workers(args.workers)
    if not 0.3 <= args.near_duplicates <= 1:
        raise UserError(
            f"`--near-duplicates` must be between 0.3 and 1, but is {args.near_duplicates}. "
            f"Set it to about {THRESHOLD}; 1 drops exact copies only."
        )


def _clean(
    files: list[CorpusFile], rules: Rules, num_workers: int, folder: Path, report: CleaningReport
) -> None:
    """Write what stays of ``files`` into ``folder`` and tell ``report`` of every document."""
    staying = StayingDocuments(rules.threshold)
    places: list[tuple[str, int]] = []  # of those in ``staying``: file and line
    paths = [file.path for file in files]
    with (
        CorpusWriter(files, folder, rules.split_documents) as writer,
        progress_bar("clean", paths) as bar,
    ):
        chunks = read_chunks(paths, rules.split_documents)
        for num_read, documents in in_order(partial(judge, rules=rules), chunks, num_workers):
            bar.update(num_read)
            for document in documents:
                document = _held_against(document, staying, places)
                if document.reason is None:
                    staying.add(document.digest, document.minima)
                    places.append((report.name_of[document.path], document.line))
                    writer.write(document.path, document.output)
                report.add(document)
    report.check_any_stays()


def _held_against(
    document: Judged, staying: StayingDocuments, places: list[tuple[str, int]]
) -> Judged:
    """``document`` with the reason to drop it, if it is a copy of one of those in ``staying``."""
    if document.reason is not None:
        return document
    reason, number = Reason.copy, staying.exact_copy_of(document.digest)
    if number is None and document.minima is not None:
        reason, number = Reason.near_copy, staying.near_copy_of(document.minima)
    if number is None:
        return document
    name, line = places[number]
    return document._replace(reason=reason, found=f"of line {line:,} of {name}")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Training finds the tokenizer in the data folder, so it comes along."""
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
