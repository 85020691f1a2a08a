"""Turn text or JSONL into a data folder for `fairseq-train`.

    metaseq prepare corpus.jsonl --destdir data
    metaseq prepare books/ notes.txt --destdir data --vocab-size 16384 --valid-fraction 0.05
    metaseq prepare corpus.jsonl.zst --destdir data --opt-bpe-vocab vocab.json --opt-bpe-merges merges.txt

The inputs are .txt and .jsonl files (key "text"), plain or packed as .gz or .zst, or folders that
hold such files. Each document becomes its tokens followed by </s>. Without tokenizer files a
vocabulary is trained on a sample of the inputs. An interrupted run goes on where it stopped when it
is started again with the same inputs and options; a finished one is not done twice.

The steps:
(1) check the options, find the input files, compare with what the folder says of an earlier run;
(2) take or train the tokenizer; (3) tokenize the corpus into chunk files on all cores;
(4) merge them into the two splits; (5) move everything into place, prepare.json last.

    data/dict.txt                       fairseq's dictionary
    data/vocab.json, merges.txt         the tokenizer (or: sentencepiece.model)
    data/train.bin .idx, valid.bin .idx the tokens
    data/prepare.json                   inputs, options, counts; there only if all the rest is
    data/.prepare/                      unfinished work; gone at the end
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.documents.chunks import progress_bar, read_chunks, read_with_progress
from metaseq_plugin.data.documents.inputs import find_inputs
from metaseq_plugin.data.documents.reading import SECTION_BYTES, SplitDocuments
from metaseq_plugin.data.prepare.corpus_tokens import SPLITS, merge_chunks, tokenize_corpus
from metaseq_plugin.data.prepare.vocabulary import DEFAULT_VOCAB_SIZE, train_vocabulary
from metaseq_plugin.data.processes import WorkerDiedError, add_workers_option, check_workers
from metaseq_plugin.storage import atomic, json_file
from metaseq_plugin.storage.locks import opened
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE, token_dtype
from metaseq_plugin.tokenizers.open import (
    BPE_NAMES,
    TOKENIZER_FILES,
    add_file_options,
    check_file_options,
    from_files,
    from_folder,
    given_files,
)
from metaseq_plugin.tokenizers.train import MIN_VOCAB_SIZE

REPORT_FILE = "prepare.json"
WORK_FOLDER = ".prepare"
PARTS = ("chunks", "tokenizer", "result")  # of the work
WORK_FILES = (*PARTS, "lock", "plan.json")
# Part of every plan: raise it when the same plan would give other files.
FORMAT_VERSION = 1
MAX_VOCAB_SIZE = 1_000_000
INDEX_FILES = tuple(f"{split}.idx" for split in SPLITS)
# In the order in which they appear: fairseq takes a split for present once its .idx is there.
OUTPUT_FILES = (
    DICTIONARY_FILE,
    *TOKENIZER_FILES,
    *(f"{split}.bin" for split in SPLITS),
    *reversed(INDEX_FILES),
    REPORT_FILE,
)
Plan = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help=".txt or .jsonl[.gz|.zst] file, or folder")
    add("--destdir", required=True, help="the data folder to make")
    add("--vocab-size", type=int, metavar="N", help="train a vocabulary of exactly N symbols "
        f"(default: {DEFAULT_VOCAB_SIZE:,}, or fewer where the inputs cannot fill it)")  # fmt: skip
    add("--bpe", choices=BPE_NAMES, help="kind of tokenizer (default: the kind of the "
        f"files given, else {BPE_NAMES[0]})")  # fmt: skip
    add_file_options(parser, "to use instead of training one")
    add("--valid-fraction", type=float, default=0.02, metavar="F", help="share of the documents to "
        "hold out, between 0 and 1 (default: %(default)s; at least one document)")  # fmt: skip
    add("--split-documents", choices=[choice.value for choice in SplitDocuments],
        default=SplitDocuments.section.value, help="what one document of a .txt file is: the file, "
        f"cut at a blank line about every {SECTION_BYTES:,} bytes (section); the file uncut "
        "(file); what stands between blank lines; a line (default: %(default)s)")  # fmt: skip
    add_workers_option(parser)
    add("--seed", type=int, default=1, metavar="N", help="chooses the documents held out and the "
        "sample that a vocabulary is trained on (default: %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace another dataset in --destdir")


def run(args: argparse.Namespace) -> None:
    """Make the data folder; raises UserError for any mistake, and leaves nothing half-written."""
    destdir = Path(args.destdir)
    check_options(args)
    files = find_inputs(args.inputs, [destdir / name for name in OUTPUT_FILES])
    plan = make_plan(args, files)
    if _is_done(destdir, plan, args.overwrite):
        print(f"'{destdir}' is complete for these inputs and options: nothing to do.")  # noqa: T201
        return
    _check_strangers(destdir, plan, args)
    try:
        with _work_folder(destdir, plan) as work:
            counts = _prepare(args, files, work)
            _publish(work, destdir, {"plan": plan, **counts})
    except OSError as error:
        raise UserError(
            f"`--destdir` must be a folder that can be written, but '{destdir}' is not ({error}). "
            "Set another one, or make room."
        ) from error
    _print_summary(destdir, counts)


def check_options(args: argparse.Namespace) -> None:
    """Raise UserError for the first option that is out of range or contradicts another."""
    check_file_options(args)
    check_workers(args.workers)
    if args.vocab_size is not None and given_files(args):
        raise UserError(
            f"`--vocab-size` must be left out when tokenizer files are given, but is "
            f"{args.vocab_size}. Leave one of them out."
        )
    ranges = (
        ("--vocab-size", args.vocab_size, MIN_VOCAB_SIZE, MAX_VOCAB_SIZE),
        ("--seed", args.seed, 0, 2**63),
    )
    for option, value, lowest, highest in ranges:
        if value is not None and not lowest <= value <= highest:
            raise UserError(
                f"`{option}` must be between {lowest} and {highest}, but is {value}. "
                f"Set it within these bounds."
            )
    if not 0 < args.valid_fraction < 1:
        raise UserError(
            f"`--valid-fraction` must lie between 0 and 1, but is {args.valid_fraction}. "
            "Set it to the share of the documents to hold out, such as 0.02."
        )


def make_plan(args: argparse.Namespace, files: list[Path]) -> Plan:
    """All that the result depends on; two runs of one plan give the same bytes."""
    return {
        "format_version": FORMAT_VERSION,
        "bpe": args.bpe,
        "vocab_size": args.vocab_size,
        "tokenizer_sha256": [hashlib.sha256(file.read()).hexdigest() for file in given_files(args)],
        "valid_fraction": args.valid_fraction,
        "split_documents": args.split_documents,
        "seed": args.seed,
        "inputs": [
            {"path": str(file.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            for file, stat in ((file, file.stat()) for file in files)
        ],
    }


def _read_json(path: Path) -> Optional[Plan]:
    """The content of one of our own JSON files; None if it is not there or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _is_done(destdir: Path, plan: Plan, overwrite: bool) -> bool:
    """Whether ``destdir`` holds this plan's result; UserError if it holds another dataset."""
    report = _read_json(destdir / REPORT_FILE)
    has_index = [(destdir / name).exists() for name in INDEX_FILES]
    if report is not None and report.get("plan") == plan and all(has_index):
        return True
    if not overwrite and (report is not None or any(has_index)):
        raise UserError(
            f"`--destdir` must not hold a dataset made otherwise, but '{destdir}' does. "
            "Set another folder, or add `--overwrite` to replace it."
        )
    return False


def _check_strangers(destdir: Path, plan: Plan, args: argparse.Namespace) -> None:
    """Refuse to write over, or delete, what no run of this command made."""
    work = destdir / WORK_FOLDER
    held = {path.name for path in work.iterdir()} if work.is_dir() else set()
    # A kill leaves names such as tokenizer.….partial, too.
    if work.is_symlink() or any(not name.startswith(WORK_FILES) for name in held):
        raise UserError(
            f"`--destdir` must have {WORK_FOLDER} to itself, but '{work}' holds something else. "
            "Move it elsewhere, or set another folder."
        )
    is_of_ours = (destdir / REPORT_FILE).exists() or _read_json(work / "plan.json") == plan
    if args.overwrite or is_of_ours:
        return
    given = {file.path.resolve() for file in given_files(args)}
    for name in OUTPUT_FILES:
        path = destdir / name
        if os.path.lexists(path) and path.resolve() not in given:
            raise UserError(
                f"`--destdir` must not hold a file that would be lost, but '{destdir}' holds {name}. "
                "Set another folder, or add `--overwrite` to replace it."
            )


@contextmanager
def _work_folder(destdir: Path, plan: Plan) -> Iterator[Path]:
    """The folder of unfinished work: kept for the same plan when interrupted, gone otherwise."""
    is_new = not destdir.exists()
    work = destdir / WORK_FOLDER
    (work / "chunks").mkdir(parents=True, exist_ok=True)
    with opened(work / "lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"`--destdir` must be written by one command at a time, but another is at work in "
                f"'{destdir}'. Wait for it, or set another folder."
            ) from error
        if _read_json(work / "plan.json") != plan:
            for name in PARTS:
                shutil.rmtree(work / name, ignore_errors=True)
            (work / "chunks").mkdir()
            json_file.write(work / "plan.json", plan)
        try:
            yield work
        except WorkerDiedError:
            raise
        except UserError:
            shutil.rmtree(work)
            if is_new:
                destdir.rmdir()
            raise
    shutil.rmtree(work)


def _prepare(args: argparse.Namespace, files: list[Path], work: Path) -> Plan:
    """Fill ``work / "result"`` with everything but the report; return the counts for it."""
    folder = work / "tokenizer"
    if not folder.exists():
        _make_tokenizer(args, files, folder)
    tokenizer = from_folder(folder)
    with progress_bar("tokenize", files) as bar:
        chunks = read_chunks(files, SplitDocuments(args.split_documents))
        chunk_files = tokenize_corpus(
            chunks, work / "chunks", tokenizer, args.seed, args.workers, bar.update
        )
    result = work / "result"
    shutil.rmtree(result, ignore_errors=True)
    shutil.copytree(folder, result)
    counts = merge_chunks(chunk_files, result, token_dtype(len(tokenizer)), args.valid_fraction)
    return {"dictionary_size": len(tokenizer), "counts": counts}


def _make_tokenizer(args: argparse.Namespace, files: list[Path], folder: Path) -> None:
    """Copy or train the tokenizer into ``folder``, which appears whole or not at all."""
    split, given = SplitDocuments(args.split_documents), given_files(args)
    with atomic.new_folder(folder, needed_bytes=0) as unfinished:
        if given:
            tokenizer = from_files(args.bpe, *given)
        else:
            with progress_bar("sample", files) as bar:
                documents = read_with_progress(files, split, bar.update)
                train_vocabulary(
                    args.bpe, documents, args.vocab_size, unfinished, args.seed, args.workers
                )
            tokenizer = from_folder(unfinished)
        tokenizer.save(unfinished)


def _publish(work: Path, destdir: Path, report: Plan) -> None:
    """Move the result into ``destdir``: at no moment do old and new files make one dataset."""
    result = work / "result"
    json_file.write(result / REPORT_FILE, report)
    for name in (REPORT_FILE, *INDEX_FILES, *TOKENIZER_FILES):
        (destdir / name).unlink(missing_ok=True)
    for name in OUTPUT_FILES:
        if (result / name).exists():
            atomic.rename(result / name, destdir / name)


def _print_summary(destdir: Path, report: Plan) -> None:
    lines = [f"'{destdir}': dictionary of {report['dictionary_size']:,} symbols"]
    for split in SPLITS:
        count = report["counts"][split]
        lines.append(
            f"  {split}: {count['documents']:,} documents, {count['tokens']:,} tokens, "
            f"{count['bytes']:,} bytes"
        )
    num_empty = report["counts"]["left_out"]["empty_documents"]
    if num_empty:
        lines.append(f"  {num_empty:,} empty documents left out")
    print("\n".join(lines))  # noqa: T201
