"""The streaming loader: its speed beside the tokenizer's own, its share of a step, its waits, its memory.

    python -m benchmarks.data --text corpus.txt --vocab vocab.json --merges merges.txt
    python -m benchmarks.data --only resume --large-mb 10000 …

Corpora are JSONL made of the documents of ``--text`` over and over, in ``--folder``. The parts:
rate     tokens/s from raw JSONL to batches in one process, and the tokenizer's own ``encode_batch`` on
         the same text, taking turns; then with workers
step     the loader's share of training steps that take as long as ``--step-tokens-per-second`` says
         (0.4 M tokens/s is a 125M model on one H200): how long the trainer waits for its batches
first    time to the first batch of a large corpus: without an index and with the file out of the page
         cache, and with both
resume   time from a state in the middle of it to the next batch
memory   private memory of a data worker on a small and on a large corpus
"""

import argparse
import json
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from metaseq_plugin.data.binarized.token_blocks import SampleBreakMode
from metaseq_plugin.data.streaming.corpora import open_corpora
from metaseq_plugin.data.streaming.epochs import StreamingEpochs
from metaseq_plugin.data.streaming.mixing import Mixing
from metaseq_plugin.data.streaming.rounds import Share
from metaseq_plugin.data.streaming.split import Settings, Split
from metaseq_plugin.data.streaming.tokens import Reader, Workers
from metaseq_plugin.tokenizers.base import Tokenizer
from metaseq_plugin.tokenizers.open import from_options

BLOCK_SIZE, BATCH_SIZE, WINDOW = 2_048, 8, 512
DOCUMENT_CHARACTERS = 4_000
PIECE_BYTES = 33_554_432  # of text that is written again and again
MEGABYTE = 1_000_000


def documents_of(text: Path) -> List[str]:
    """``text`` in documents of about DOCUMENT_CHARACTERS."""
    documents: List[str] = []
    held: List[str] = []
    for paragraph in text.read_text(encoding="utf-8").split("\n"):
        held.append(paragraph)
        if sum(map(len, held)) > DOCUMENT_CHARACTERS:
            documents.append("\n".join(held))
            held = []
    return documents


def write_corpus(folder: Path, documents: List[str], megabytes: int) -> None:
    """``folder``/train/00/text.jsonl of about that many megabytes."""
    path = folder / "train" / "00" / "text.jsonl"
    if path.exists():
        return
    path.parent.mkdir(parents=True)
    generator, size = random.Random(0), 0
    lines: List[str] = []
    while size < min(PIECE_BYTES, megabytes * MEGABYTE):
        lines.append(json.dumps({"text": generator.choice(documents)}) + "\n")
        size += len(lines[-1])
    piece = "".join(lines).encode()
    with path.open("wb") as stream:
        for _ in range(max(1, megabytes * MEGABYTE // len(piece))):
            stream.write(piece)
        os.fsync(stream.fileno())


def stream(folder: Path, tokenizer: Tokenizer, num_workers: int) -> StreamingEpochs:
    corpora = open_corpora(str(folder), "train", None, False)
    settings = Settings(BLOCK_SIZE, SampleBreakMode.none, WINDOW, 1, Mixing())
    reader = Reader(tokenizer, False)
    share = Share(BATCH_SIZE, 1, 0, BLOCK_SIZE)
    return StreamingEpochs(Split(corpora, settings, reader), share, Workers(reader, num_workers))


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def whole_epoch(epochs: StreamingEpochs) -> int:
    return sum(batch["ntokens"] for batch in epochs.next_epoch_itr())


def rate(options: argparse.Namespace, tokenizer: Tokenizer, documents: List[str]) -> None:
    folder = options.folder / "rate"
    write_corpus(folder, documents, options.rate_mb)
    written = (folder / "train" / "00" / "text.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"].rstrip() for line in written]
    num_tokens = sum(map(len, tokenizer.encode_batch(texts)))
    alone, streamed = [], []
    for _ in range(options.rounds):
        alone.append(seconds(lambda: tokenizer.encode_batch(texts)))
        streamed.append(seconds(lambda: whole_epoch(stream(folder, tokenizer, 0))))
    print(f"rate: {num_tokens:,} tokens, best of {options.rounds}, one process")
    print(f"  tokenizer alone    {num_tokens / min(alone) / 1e6:6.2f} M tokens/s")
    ratio = min(alone) / min(streamed)
    print(f"  JSONL to batches   {num_tokens / min(streamed) / 1e6:6.2f} M tokens/s  ({ratio:.1%})")
    for num_workers in options.workers:
        epochs = stream(folder, tokenizer, num_workers)
        best = min(seconds(partial(whole_epoch, epochs)) for _ in range(options.rounds))
        epochs.workers.close()
        print(
            f"  {num_workers} workers          {num_tokens / best / 1e6:6.2f} M tokens/s, "
            f"{num_tokens / best / num_workers / 1e6:.2f} a worker"
        )


def step(options: argparse.Namespace, tokenizer: Tokenizer, documents: List[str]) -> None:
    folder = options.folder / "rate"
    write_corpus(folder, documents, options.rate_mb)
    for num_workers in options.workers:
        epochs = stream(folder, tokenizer, num_workers)
        batches = epochs.next_epoch_itr()
        next(batches)
        waits, busy = [], 0.0
        for _ in range(options.steps):
            start = time.perf_counter()
            batch: Dict[str, Any] = next(batches)
            waits.append(time.perf_counter() - start)
            pause = batch["ntokens"] / options.step_tokens_per_second
            time.sleep(pause)
            busy += pause
        epochs.workers.close()
        share = sum(waits) / (sum(waits) + busy)
        print(
            f"step: {num_workers} workers, {options.steps} steps of {BATCH_SIZE} x {BLOCK_SIZE} tokens at "
            f"{options.step_tokens_per_second:,.0f} tokens/s: the loader's share is {share:.2%}, "
            f"its longest wait {max(waits) * 1e3:.0f} ms"
        )


def forget(path: Path) -> None:
    """Let the page cache drop a file."""
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def first(options: argparse.Namespace, tokenizer: Tokenizer, documents: List[str]) -> None:
    folder = options.folder / f"large-{options.large_mb}"
    write_corpus(folder, documents, options.large_mb)
    path = folder / "train" / "00" / "text.jsonl"
    for name in ("cold", "warm"):
        if name == "cold":
            for index in path.parent.glob(".*.index.npy"):
                index.unlink()
            forget(path)
        start = time.perf_counter()
        epochs = stream(folder, tokenizer, options.workers[-1])
        opened = time.perf_counter() - start
        next(epochs.next_epoch_itr())
        total = time.perf_counter() - start
        epochs.workers.close()
        print(
            f"first: {options.large_mb:,} MB, {name}: {total:.2f} s to the first batch, "
            f"{opened:.2f} s of them to index or open"
        )


def resume(options: argparse.Namespace, tokenizer: Tokenizer, documents: List[str]) -> None:
    folder = options.folder / f"large-{options.large_mb}"
    write_corpus(folder, documents, options.large_mb)
    epochs = stream(folder, tokenizer, 0)
    size = int(epochs.split.drawn.sum())
    for percent in (0, 50, 99):
        epochs.next_epoch_itr()
        state = epochs.state_dict()
        # What a run would have saved there, but for counts: a document's start is a block's start.
        number = size * percent // 100
        state["streaming"]["shuffle"]["start"] = {"document": number, "token": 0, "block": 0}
        state["streaming"]["shuffle"]["taken"] = 500
        start = time.perf_counter()
        resumed = stream(folder, tokenizer, options.workers[-1])
        resumed.load_state_dict(json.loads(json.dumps(state)))
        next(resumed.next_epoch_itr())
        took = time.perf_counter() - start
        resumed.workers.close()
        print(
            f"resume: {options.large_mb:,} MB, at {percent}%: {took:.2f} s to the next batch, "
            f"{len(json.dumps(state)):,} bytes of state"
        )


def private_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / 1024


def memory(options: argparse.Namespace, tokenizer: Tokenizer, documents: List[str]) -> None:
    for megabytes in (options.small_mb, options.large_mb):
        folder = options.folder / f"large-{megabytes}"
        write_corpus(folder, documents, megabytes)
        epochs = stream(folder, tokenizer, 2)
        batches = epochs.next_epoch_itr()
        for _ in range(options.steps):
            next(batches)
        assert epochs.workers.pool is not None
        held = [private_megabytes(pid) for pid in epochs.workers.pool._processes]
        epochs.workers.close()
        print(
            f"memory: {megabytes:,} MB, after {options.steps} batches: "
            f"{', '.join(f'{size:.0f}' for size in held)} MB private to each of 2 workers"
        )


PARTS: Dict[str, Callable[[argparse.Namespace, Tokenizer, List[str]], None]] = {
    "rate": rate, "step": step, "first": first, "resume": resume, "memory": memory,
}  # fmt: skip


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--text", type=Path, required=True, help="text that documents are made of")
    add("--vocab", type=Path, required=True, help="vocab.json")
    add("--merges", type=Path, required=True, help="merges.txt that belongs to it")
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    add("--folder", type=Path, help="where corpora are made and kept; default: a temporary one")
    add("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to measure")
    add("--rounds", type=int, default=3, help="rounds of the rate; the best counts")
    add("--steps", type=int, default=300, help="training steps, or batches")
    add("--step-tokens-per-second", type=float, default=400_000, help="of the model")
    add("--rate-mb", type=int, default=40, help="megabytes of the corpus for rate and step")
    add("--small-mb", type=int, default=100, help="megabytes of the small corpus")
    add("--large-mb", type=int, default=2_000, help="megabytes of the large corpus")
    options = parser.parse_args(arguments)
    documents = documents_of(options.text)
    tokenizer = from_options("opt_bpe", options.vocab, options.merges)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        for part in options.only:
            PARTS[part](options, tokenizer, documents)


if __name__ == "__main__":
    main()
