"""Look at a corpus before training on it: sizes, lengths, shares, copies, and what would fail.

    metaseq data inspect DATA
    metaseq data inspect corpus.jsonl --opt-bpe-vocab vocab.json --opt-bpe-merges merges.txt --plot lengths.png
    metaseq data inspect DATA --token-sample 0.01 --report inspect.json

DATA is a folder (as fairseq-train streams it, or any other) or one file. Tokens are counted with the
tokenizer that is named, else with the one that lies in DATA; without one, bytes stand for them. A document
has its text's tokens and </s>; white space at its end does not count, because training drops it.

The steps, over chunks of the corpus:
(1) in the workers, each document is parsed, measured, hashed and perhaps tokenised;
(2) here the counts are added up (census.py), and hashes compared at the end;
(3) tables are printed; --report has all of it as JSON, --plot the lengths as a picture.
"""

import argparse
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Iterator, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.chunks import Chunk, progress_bar, read_chunks
from metaseq_plugin.data.documents.parsing import Fault
from metaseq_plugin.data.documents.reading import SplitDocuments
from metaseq_plugin.data.processes import add_workers_option, check_workers, in_order
from metaseq_plugin.data.tools.corpus_files import CORPUS_HELP, corpus_files
from metaseq_plugin.data.tools.inspect.census import Census, count
from metaseq_plugin.data.tools.inspect.lengths import PLOT_OPTION, plot
from metaseq_plugin.data.tools.inspect.report import as_json, as_text
from metaseq_plugin.data.tools.tables import show
from metaseq_plugin.storage import json_file
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.byte_level import MERGES_OPTION, VOCAB_OPTION
from metaseq_plugin.tokenizers.open import (
    add_file_options,
    check_file_options,
    from_files,
    from_folder,
    given_files,
    has_tokenizer,
)
from metaseq_plugin.tokenizers.sentencepiece import MODEL_OPTION

REPORT_OPTION = "--report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help=CORPUS_HELP)
    parser.set_defaults(bpe=None)  # the files show the kind
    add_file_options(parser, "to count with")
    add("--token-sample", type=float, default=1.0, metavar="F", help="tokenise this share of the "
        "documents only, and say how far off the estimate may be (default: all)")  # fmt: skip
    add("--split-documents", choices=[choice.value for choice in SplitDocuments],
        default=SplitDocuments.blank_line.value, help="what one document of a .txt file is "
        "(default: %(default)s, as in streaming)")  # fmt: skip
    add_workers_option(parser)
    add(REPORT_OPTION, type=Path, metavar="FILE", help="write all numbers as JSON")
    add(PLOT_OPTION, type=Path, metavar="FILE",
        help="write the lengths as a PNG (needs matplotlib)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Print the report; raises UserError for a mistake, not for a bad document."""
    _check_options(args)
    tokenizer = _tokenizer(args)
    if tokenizer is None and args.token_sample < 1:
        raise UserError(
            f"`--token-sample` must come with a tokenizer, but {args.data} holds none. "
            f"Set {VOCAB_OPTION} and {MERGES_OPTION}, or {MODEL_OPTION}."
        )
    files = corpus_files(args.data)
    split = SplitDocuments(args.split_documents)
    name = tokenizer.bpe_name if tokenizer else None
    census = Census(files, name is not None, args.token_sample)
    work = partial(count, tokenizer=tokenizer, token_sample=args.token_sample)
    with progress_bar("inspect", [file.path for file in files]) as bar:
        for counts in in_order(work, _chunks(census, split), args.workers):
            bar.update(counts.num_input_bytes)
            census.add(counts)
    census.finish()
    show(as_text(census, name))  # first: a file that cannot be written must not cost the count
    if args.plot is not None:
        with _written(PLOT_OPTION, args.plot):
            plot(census.lengths(), census.unit, args.plot)
    if args.report is not None:
        with _written(REPORT_OPTION, args.report):
            json_file.write(args.report, as_json(census, name))


def _check_options(args: argparse.Namespace) -> None:
    check_workers(args.workers)
    if not 0 < args.token_sample <= 1:
        raise UserError(
            f"`--token-sample` must be above 0 and at most 1, but is {args.token_sample}. "
            "Set it to the share of the documents to tokenise, such as 0.01."
        )


def _tokenizer(args: argparse.Namespace) -> Optional[Tokenizer]:
    """The one that options name, else that of the data folder, else none."""
    check_file_options(args)
    given = given_files(args)
    if given:
        return from_files(args.bpe, *given)
    if Path(args.data).is_dir() and has_tokenizer(args.data):
        return from_folder(args.data)
    return None


def _chunks(census: Census, split: SplitDocuments) -> Iterator[Chunk]:
    """The chunks of each file; a file that cannot be read, or not to its end, is told to the census."""
    for file in census.files:
        try:
            yield from read_chunks([file.path], split)
        except UserError as error:
            census.add_fault(Fault(str(file.path), 0, 0, "a readable file", str(error)))


@contextmanager
def _written(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"`{option}` must be a file that can be written, but {path} is not "
            f"({error.strerror}). Set another."
        ) from error
