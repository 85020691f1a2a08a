"""Tokens/s of our byte-level BPE beside Hugging Face ``tokenizers``, same files and text, one core.

    python -m benchmarks.tokenizing --text corpus.txt --vocab vocab.json --merges merges.txt
    python -m benchmarks.tokenizing        # trains on the interpreter's standard library, tests on it

(1) the text is cut into documents as ``metaseq prepare`` cuts it; (2) both encode all of them, taking
turns in one process that is pinned to one core; (3) the ids are compared, then the speeds. "first"
is the first pass, when no cache of words is filled; "best" the best of the others.

The file is not called ``tokenize.py``: it would hide the standard library's module of that name from
every script run from this folder.
"""

import argparse
import os
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, Sequence

import numpy as np
import tokenizers as hugging_face

from metaseq_plugin.data.documents.parsing import parse
from metaseq_plugin.data.documents.reading import SplitDocuments, open_input, read_documents
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_options
from metaseq_plugin.tokenizers.train import train_byte_level_bpe

DEFAULT_VOCAB_SIZE = 8_192
OURS = "ours, encode_batch"
Encode = Callable[[List[str]], Sequence[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, help=".txt or .jsonl file; default: standard library")
    parser.add_argument("--vocab", type=Path, help="vocab.json; default: trained on the text")
    parser.add_argument("--merges", type=Path, help="merges.txt that belongs to it")
    parser.add_argument(
        "--rounds", type=int, default=5, help="passes over the text after the first"
    )
    parser.add_argument(
        "--core", type=int, default=min(os.sched_getaffinity(0)), help="core to use"
    )
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {options.core})

    documents = read(options.text) if options.text else standard_library()
    with tempfile.TemporaryDirectory() as folder:
        if options.vocab is None:
            train_byte_level_bpe(documents, DEFAULT_VOCAB_SIZE, Path(folder))
        vocab = options.vocab or Path(folder) / "vocab.json"
        merges = options.merges or Path(folder) / "merges.txt"
        ours = from_options("opt_bpe", str(vocab), str(merges))
        theirs = hugging_face.ByteLevelBPETokenizer(str(vocab), str(merges))
    compare(ours, theirs, documents, options.rounds)


def read(path: Path) -> List[str]:
    with open_input(path) as raw:
        return [parse(document) for document in read_documents(path, raw, SplitDocuments.section)]


def standard_library() -> List[str]:
    """The top-level modules of the running interpreter."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]


def compare(
    ours: Tokenizer,
    theirs: hugging_face.ByteLevelBPETokenizer,
    documents: List[str],
    rounds: int,
) -> None:
    """Let the contenders take turns and print the table; raises if their ids differ."""
    contenders: dict[str, Encode] = {
        OURS: ours.encode_batch,
        "tokenizers, encode": lambda texts: [theirs.encode(text).ids for text in texts],
        "tokenizers, encode_batch": lambda texts: [e.ids for e in theirs.encode_batch(texts)],
    }
    seconds: dict[str, List[float]] = {name: [] for name in contenders}
    ids: dict[str, Sequence[Any]] = {}
    for _ in range(1 + rounds):
        for name, encode in contenders.items():
            start = time.perf_counter()
            ids[name] = encode(documents)
            seconds[name].append(time.perf_counter() - start)
        for theirs_ids in ids.values():
            if not all(np.array_equal(a, b) for a, b in zip(ids[OURS], theirs_ids)):
                raise AssertionError("the ids differ")
    num_tokens = sum(map(len, ids[OURS]))
    num_bytes = sum(len(text.encode()) for text in documents)
    print(
        f"{len(documents):,} documents, {num_bytes:,} bytes, {num_tokens:,} tokens, "
        f"{len(ours):,} symbols; tokenizers {hugging_face.__version__}; one core; same ids"
    )
    print(f"{'':26}{'first':>20}{'best':>20}{'':12}{'ratio (best)':>14}")
    slowest = min(seconds["tokenizers, encode_batch"][1:])
    for name, times in seconds.items():
        cold, best = times[0], min(times[1:])
        print(
            f"{name:26}{num_tokens / cold / 1e6:12.2f} M tok/s{num_tokens / best / 1e6:12.2f} M tok/s"
            f"{num_bytes / best / 1e6:7.1f} MB/s{slowest / best:14.2f}"
        )


if __name__ == "__main__":
    main()
