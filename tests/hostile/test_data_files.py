"""Hostile corpora and binarised splits end in one sentence or are read, at every door that reads them."""

import argparse
import gzip
import multiprocessing
import os
import random
import resource
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Tuple

import numpy as np
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.compat.errors import MAX_CHARACTERS, UserError
from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode, TokenBlocks, TokenStream
from metaseq_plugin.data.binarized.token_file import HEADER, MAGIC, read_index
from metaseq_plugin.data.documents.parsing import parse
from metaseq_plugin.data.documents.reading import RawDocument
from metaseq_plugin.data.prepare import command as prepare
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.order import DocumentOrder
from metaseq_plugin.data.streaming.tokens import Reader, ranges
from metaseq_plugin.data.tools.clean import command as clean
from metaseq_plugin.data.tools.inspect import command as inspect
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe
from tests.fairseq_runs import write_split
from tests.hostile.data_files import (
    GOOD_JSONL,
    NUMBERS,
    TEXTS,
    damaged,
    hostile_corpora,
    hostile_indexes,
)

MAX_SECONDS = 10
MAX_EXTRA_BYTES = 500_000_000
VOCAB_SIZE = 300
NUM_TYPES = 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_byte_level_bpe(TEXTS, VOCAB_SIZE, folder)
    return folder


def run(tool: ModuleType, *argv: object) -> None:
    parser = argparse.ArgumentParser()
    tool.add_arguments(parser)
    tool.run(parser.parse_args([str(argument) for argument in argv]))


def stream(folder: Path, tokenizer: Path, skips_bad: bool) -> None:
    """What the streaming task does with the documents of a split, in one process."""
    corpora = open_corpora(str(folder), "train", None, skips_bad)
    counts = corpora.num_documents
    reader = Reader(from_folder(tokenizer), skips_bad)
    for part in ranges(DocumentOrder(counts, counts, 1, 1, True), corpora, 0):
        reader.tokenise(part.places)


# What is done with DATA/train/00/⟨file⟩, given DATA, the tokenizer's folder and a folder to write into.
DOORS: Dict[str, Callable[[Path, Path, Path], None]] = {
    "prepare": lambda data, tokenizer, out: run(
        prepare, data, "--destdir", out, "--opt-bpe-vocab", tokenizer / "vocab.json",
        "--opt-bpe-merges", tokenizer / "merges.txt", "--workers", 1,
    ),
    "inspect": lambda data, tokenizer, out: run(inspect, data, "--workers", 1),
    "clean": lambda data, tokenizer, out: run(clean, data, out, "--workers", 1),
    "stream": lambda data, tokenizer, out: stream(data, tokenizer, False),
    "stream, skipping": lambda data, tokenizer, out: stream(data, tokenizer, True),
}  # fmt: skip


def outcome(act: Callable[[], object]) -> str:
    """What the user is told, in one line that a terminal shows; "" for an end without a word."""
    started = time.monotonic()
    try:
        act()
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert time.monotonic() - started < MAX_SECONDS
    for sentence in said.split("\n"):
        assert sentence.isprintable()
        assert len(sentence) <= MAX_CHARACTERS + 3
    return said


MANY = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "num_damaged"),
    [
        *((door, 0) for door in DOORS if door != "stream, skipping"),
        *(pytest.param(door, MANY, marks=pytest.mark.slow) for door in DOORS),
    ],
)
def test_hostile_corpora(
    door: str,
    num_damaged: int,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where a canary would lie
    told = 0
    cases = list(hostile_corpora(seed=0, count=num_damaged))
    for number, (name, content) in enumerate(cases):
        here = tmp_path / str(number)
        (here / "data" / "train" / "00").mkdir(parents=True)
        (here / "data" / "train" / "00" / name).write_bytes(content)
        said = outcome(partial(DOORS[door], here / "data", tokenizer, here / "out"))
        told += bool(said)
        assert sorted(path.name for path in here.iterdir()) in (["data"], ["data", "out"]), name
        if said and door in ("prepare", "clean"):
            assert not (here / "out").exists(), name
    assert len(list(tmp_path.iterdir())) == len(cases)
    if door in ("prepare", "stream"):  # the others count what is bad, and go on
        assert told > 20


def peak(act: Callable[[], object]) -> int:
    """How many bytes a process that forks off for ``act`` grows by."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with suppress(UserError):
            act()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sender.send(max(grown, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(10 * MAX_SECONDS)
    assert process.exitcode == 0
    return int(receiver.recv()) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "name", ["zeros.jsonl.zst", "zeros.txt.gz", "lines.jsonl.zst", "line.jsonl"]
)
def test_bombs(door: str, name: str, tokenizer: Path, tmp_path: Path) -> None:
    content = {
        "zeros.jsonl.zst": lambda: zstd.compress(bytes(300_000_000)),
        "zeros.txt.gz": lambda: gzip.compress(bytes(300_000_000), 1),
        "lines.jsonl.zst": lambda: zstd.compress(b"\n" * 300_000_000),
        "line.jsonl": lambda: b'{"text": "' + b"a " * 60_000_000 + b'"}\n',
    }[name]()
    data = tmp_path / "data"
    (data / "train" / "00").mkdir(parents=True)
    (data / "train" / "00" / name).write_bytes(content)
    act = partial(DOORS[door], data, tokenizer, tmp_path / "out")
    assert peak(partial(outcome, act)) < MAX_EXTRA_BYTES


def read_blocks(prefix: Path) -> None:
    """What the task does with a split: every block, compared with the dictionary."""
    stream_ = TokenStream([str(prefix)])
    blocks = TokenBlocks(stream_, 16, SampleBreakMode.complete, 2)
    blocks.check_vocabulary(NUM_TYPES, str(prefix))
    for number in range(len(blocks)):
        source, target, _ = blocks[number]
        assert min(int(source.min()), int(target.min())) >= 0
        assert max(int(source.max()), int(target.max())) < NUM_TYPES


@pytest.fixture
def split(tmp_path: Path) -> Tuple[Path, bytes, bytes]:
    """The prefix of a good split; its .idx and its .bin."""
    chance = np.random.default_rng(0)
    write_split(tmp_path, "train", chance.integers(4, NUM_TYPES, (20, 30)).tolist())
    prefix = tmp_path / "train"
    read_blocks(prefix)
    return prefix, prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()


def test_hostile_binarised_splits(split: Tuple[Path, bytes, bytes]) -> None:
    prefix, idx, bin_ = split
    told = 0
    cases = list(hostile_indexes(idx, seed=1, count=150))
    for _, content in cases:
        prefix.with_suffix(".idx").write_bytes(content)
        told += bool(outcome(lambda: read_blocks(prefix)))
    assert told > len(cases) // 2
    prefix.with_suffix(".idx").write_bytes(idx)
    chance = random.Random(2)
    for _ in range(100):
        prefix.with_suffix(".bin").write_bytes(damaged(bin_, chance)[1])
        outcome(lambda: read_blocks(prefix))


@pytest.mark.parametrize("change", ["truncated", "overwritten", "appended"])
def test_a_split_that_changes_while_it_is_read(
    split: Tuple[Path, bytes, bytes], change: str
) -> None:
    prefix, _, content = split
    blocks = TokenBlocks(TokenStream([str(prefix)]), 16, SampleBreakMode.none, 2)
    blocks[0]
    new = {"truncated": b"", "overwritten": content[::-1], "appended": content + b"\0\0"}[change]
    with prefix.with_suffix(".bin").open("r+b") as file:
        file.truncate(len(new))
        file.write(new)
    os.utime(prefix.with_suffix(".bin"), ns=(7, 7))  # clocks tick slowly on some file systems
    assert "must not change while it is read" in outcome(lambda: blocks[1])


def test_a_deleted_or_replaced_split_is_read_on(split: Tuple[Path, bytes, bytes]) -> None:
    prefix = split[0]
    blocks = TokenBlocks(TokenStream([str(prefix)]), 16, SampleBreakMode.none, 2)
    before = blocks[5][1]
    prefix.with_suffix(".bin").unlink()
    prefix.with_suffix(".bin").write_bytes(b"something else")
    assert blocks[5][1].equal(before)


@pytest.fixture
def indexed_data(tmp_path: Path) -> Tuple[Path, Path]:
    """A data folder, and the index that streaming made of its file."""
    here = tmp_path / "data" / "train" / "00"
    here.mkdir(parents=True)
    (here / "a.jsonl").write_bytes(GOOD_JSONL)
    open_corpora(str(tmp_path / "data"), "train", None, False)
    return tmp_path / "data", here / ".a.jsonl.index.npy"


@pytest.mark.slow
def test_hostile_stream_indexes(indexed_data: Tuple[Path, Path], tokenizer: Path) -> None:
    data, index = indexed_data
    good = index.read_bytes()
    chance = random.Random(3)
    cases = [damaged(good, chance)[1] for _ in range(30)]
    cases += [good[:-8 * place] + np.int64(number % 2**64 - 2**63).tobytes() + good[len(good) - 8 * place + 8 :]
              for place in (2, 20) for number in NUMBERS[::3]]  # fmt: skip
    cases += [zip_header(good), b"\x93NUMPY\x01\x00" + b"\xff" * 200, header_that_runs(good)]
    for content in cases:
        index.write_bytes(content)
        outcome(lambda: stream(data, tokenizer, False))
    assert not (data / "canary").exists()


def zip_header(good: bytes) -> bytes:
    return b"PK\x03\x04" + good[4:]


def header_that_runs(good: bytes) -> bytes:
    text = b"{'descr': __import__('os').mkdir('canary'), 'shape': ((((" + b"(" * 50
    return good[:10] + text.ljust(118) + good[128:]


def test_a_stream_index_that_is_cut_off_while_it_is_mapped(indexed_data: Tuple[Path, Path]) -> None:
    data, index = indexed_data
    corpora = open_corpora(str(data), "train", None, False)
    first = np.zeros(1, dtype=np.int64)
    corpora.places(first, first)
    os.truncate(index, 0)
    assert "but was cut off" in outcome(lambda: corpora.places(first, first))
    index.unlink()
    corpora_again = open_corpora(str(data), "train", None, False)
    assert corpora_again.places(first, first).size[0] == len(GOOD_JSONL.split(b"\n")[0]) + 1


def test_links_in_the_place_of_locks_are_not_followed(tmp_path: Path, tokenizer: Path) -> None:
    precious, data = tmp_path / "precious", tmp_path / "data"
    precious.write_text("weights")
    (data / "train" / "00").mkdir(parents=True)
    (data / "train" / "00" / "a.jsonl").write_bytes(GOOD_JSONL)
    (data / "train" / "00" / ".index.lock").symlink_to(precious)
    assert "`--index-cache-dir` must be" in outcome(lambda: stream(data, tokenizer, False))
    (tmp_path / "out" / ".prepare").mkdir(parents=True)
    (tmp_path / "out" / ".prepare" / "lock").symlink_to(precious)
    act = partial(DOORS["prepare"], data, tokenizer, tmp_path / "out")
    assert "`--destdir` must be" in outcome(act)
    assert precious.read_text() == "weights"


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_document(content: bytes) -> None:
    for path in ("a.jsonl", "a.txt"):
        outcome(partial(parse, RawDocument(path, 1, 0, content)))


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None)
@given(content=st.binary(max_size=120), code=st.integers(0, 255), documents=st.integers(0, 12))
def test_any_bytes_as_an_index(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, code: int, documents: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.idx"
    for head in (b"", MAGIC, HEADER.pack(MAGIC, 1, code, documents)):
        path.write_bytes(head + content)
        outcome(partial(read_index, path))
