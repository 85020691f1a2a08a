"""``metaseq serve`` under load: tokens a second, latency and time to first token, beside one client alone and Hugging Face.

    OMP_NUM_THREADS=2 python -m benchmarks.serve --results benchmarks/results/DATE-serve-cpu.md

The steps:
(1) one random model of the shape is written as a Hugging Face folder, with a tokenizer of as many tokens;
(2) ``metaseq serve`` loads it, a process of its own on a port of its own, and answers a few requests to warm up;
(3) 1, 4, 16, 64 clients, one number after the other, send the same requests for some time each (``clients.py``);
(4) the server ends, and Hugging Face's ``generate()`` gets the first of these requests, batched by hand: sorted by
    how many tokens they want, so that little is written in vain, in batches of 16.

A rate counts the tokens that were asked for only. Clients and server share the machine's cores.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Iterator, Sequence

import torch

from benchmarks.clients import Load, Request, measure, requests_of
from benchmarks.decode import SHAPES, VOCAB_SIZE, write_model
from metaseq_plugin.tokenizers.dictionary import SPECIAL_SYMBOLS
from metaseq_plugin.tokenizers.files import BYTE_CHARACTERS, write_byte_pairs

SERVER = "import sys; from metaseq_plugin.cli import main; sys.exit(main())"
MOST_REQUESTS = 4096  # no run gets through so many
HF_BATCH = 16
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of ``VOCAB_SIZE`` tokens: bytes, pairs of letters, and pairs with a third."""
    pairs = list(itertools.product(LETTERS, LETTERS))
    triples = itertools.product(map("".join, pairs), LETTERS)
    count = VOCAB_SIZE - len(SPECIAL_SYMBOLS) - len(BYTE_CHARACTERS)
    merges = [*pairs, *triples][:count]
    symbols = [*SPECIAL_SYMBOLS, *BYTE_CHARACTERS, *map("".join, merges)]
    write_byte_pairs(folder, {symbol: number for number, symbol in enumerate(symbols)}, merges)


@contextmanager
def serving(folder: str, args: argparse.Namespace) -> Iterator[str]:
    """The address of a server of the model in ``folder``, which ends with the block."""
    words = [sys.executable, "-c", SERVER, "serve", "--path", folder, "--port", "0"]
    words += ["--dtype", args.dtype, "--device", args.device]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready: "):
                yield line.split()[1].rstrip(",")
                return
        raise RuntimeError("The server must say that it is ready, but ended.")
    finally:
        process.terminate()
        process.wait()


def load_server(folder: str, requests: Sequence[Request], args: argparse.Namespace) -> list[Load]:
    """What each number of clients got."""
    with serving(folder, args) as url:
        measure(url, requests, clients=4, seconds=1.0)
        return [measure(url, requests, clients, args.seconds) for clients in args.clients]


def batches_of(requests: Sequence[Request]) -> list[list[Request]]:
    """Batches for ``generate()``, which writes as many tokens to each prompt as its longest row wants."""
    ordered = sorted(requests, key=lambda request: request.new_tokens)
    return [ordered[start : start + HF_BATCH] for start in range(0, len(ordered), HF_BATCH)]


def hugging_face_rate(
    folder: str, requests: Sequence[Request], args: argparse.Namespace
) -> tuple[float, int]:
    """Tokens a second that were asked for, and how many there were."""
    from transformers import OPTForCausalLM

    dtype = getattr(torch, args.dtype)
    model = OPTForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(args.device).eval()

    def run(batch: list[Request], most: int) -> None:
        rows = [torch.tensor([2, *request.prompt]) for request in batch]
        tokens = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=1, padding_side="left"
        ).to(args.device)
        model.generate(
            tokens, attention_mask=tokens.ne(1), do_sample=False, suppress_tokens=[1],
            max_new_tokens=most, min_new_tokens=most,
        )  # fmt: skip

    batches = batches_of(requests)
    run(batches[0], 2)  # warms up
    begun = time.perf_counter()
    for batch in batches:
        run(batch, batch[-1].new_tokens)
    tokens = sum(request.new_tokens for request in requests)
    return tokens / (time.perf_counter() - begun), tokens


def report(loads: Sequence[Load], theirs: float, tokens: int, args: argparse.Namespace) -> str:
    """Everything as Markdown."""
    where = f"{torch.get_num_threads()} CPU threads"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    alone = next((load.rate for load in loads if load.clients == 1), float("nan"))
    lines = [
        f"# {date.today()}, the server under load",
        "",
        f"OPT {args.shape}, {args.dtype} on {where}, torch {torch.__version__}; prompts of 16 to 256 tokens, 16 to 128 "
        f"new ones, greedy; {args.seconds:g} s for each number of clients.",
        f"Load averages of the machine at the end, these contenders included: {os.getloadavg()}.",
        "",
        "| clients | answers | tok/s | beside 1 | beside Hugging Face | latency p50 s | p99 | first token p50 s | p99 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {load.clients} | {len(load.answers)} | {load.rate:.1f} | {load.rate / alone:.2f} | "
        f"{load.rate / theirs:.2f} | {load.latency(50):.2f} | {load.latency(99):.2f} | "
        f"{load.first_token(50):.2f} | {load.first_token(99):.2f} |"
        for load in loads
    ]
    told = (
        f"Hugging Face's `generate()`, batches of {HF_BATCH} sorted by new tokens: {theirs:.1f} tok/s of "
        f"{tokens:,} asked for."
    )
    return "\n".join([*lines, "", told, ""])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each number of clients")
    parser.add_argument("--batched", type=int, default=48, help="requests for Hugging Face")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    requests = requests_of(args.seed, MOST_REQUESTS, VOCAB_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, args.shape, args.dtype)
        write_tokenizer(Path(folder))
        loads = load_server(folder, requests, args)
        theirs, tokens = hugging_face_rate(folder, requests[: args.batched], args)
    text = report(loads, theirs, tokens, args)
    sys.stdout.write(text)
    if args.results:
        args.results.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
