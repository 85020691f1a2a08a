"""Greedy decoding, tokens a second: this plugin beside Hugging Face's ``generate()``.

    OMP_NUM_THREADS=2 python -m benchmarks.decode --results benchmarks/results/DATE-decode-cpu.md
    OMP_NUM_THREADS=2 python -m benchmarks.decode --saved-as float16      # as all of OPT's releases are
    python -m benchmarks.decode --device cuda --dtype bfloat16

The steps:
(1) one random model of the 125M's shape is written as a Hugging Face folder;
(2) both contenders load it in this process, whose imports take most of the time where a GPU computes;
(3) they take turns at the same prompts, round by round, and must give the same tokens;
(4) in between, the machine's reading bandwidth is measured, by a sum over memory beyond every cache, and with it the
    bound: every step reads all matrices once, so tokens/s ≤ batch · bandwidth / bytes of the matrices in --dtype;
(5) each loads and generates once more in a process of its own, whose peak memory is told.

Rates and bandwidth are the best of all rounds; ratios are the median over rounds of the same turn: other work on the
machine then falls on both.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable, NamedTuple

import torch

from benchmarks.turns import resident_bytes

# (layers, model dim, heads)
SHAPES = {"125m": (12, 768, 12), "1.3b": (24, 2048, 32), "6.7b": (32, 4096, 32), "tiny": (2, 64, 2)}
DTYPES = ("float32", "float16", "bfloat16")
VOCAB_SIZE = 50272
READ_FLOATS = 64 * 1024 * 1024  # 256 MiB, beyond every cache

Run = Callable[[list[list[int]]], list[list[int]]]


class Result(NamedTuple):
    """One batch size."""

    batch: int
    ours: float  # tokens a second
    hugging_face: float
    ratio: float
    bandwidth: float  # bytes a second
    bound: float  # tokens a second
    same_tokens: bool


def write_model(folder: str, shape: str, dtype: str) -> None:
    """A random OPT as Hugging Face saves it."""
    from transformers import OPTConfig, OPTForCausalLM

    layers, dim, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCAB_SIZE, num_hidden_layers=layers, hidden_size=dim, ffn_dim=4 * dim,
        num_attention_heads=heads, word_embed_proj_dim=dim, init_std=0.04, bos_token_id=2,
    )  # fmt: skip
    OPTForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)


def load_ours(folder: str, args: argparse.Namespace) -> Run:
    from metaseq_plugin.hub import OPT

    opt = OPT.from_pretrained(folder, device=args.device, dtype=args.dtype)

    def run(prompts: list[list[int]]) -> list[list[int]]:
        found = opt.generate(
            prompts, args.new_tokens, min_new_tokens=args.new_tokens, temperature=0.0,
            with_scores=False,
        )  # fmt: skip
        return [completions[0].tokens for completions in found]

    return run


def load_hugging_face(folder: str, args: argparse.Namespace) -> Run:
    from transformers import OPTForCausalLM

    dtype = getattr(torch, args.dtype)
    model = OPTForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(args.device).eval()

    def run(prompts: list[list[int]]) -> list[list[int]]:
        tokens = torch.tensor([[2, *prompt] for prompt in prompts], device=args.device)
        found = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, suppress_tokens=[1],
            max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens,
        )  # fmt: skip
        return found[:, tokens.size(1) :].tolist()

    return run


LOADERS = {"ours": load_ours, "hugging face": load_hugging_face}


def prompts_of(batch: int, args: argparse.Namespace) -> list[list[int]]:
    torch.manual_seed(batch)
    return torch.randint(4, VOCAB_SIZE, (batch, args.prompt_tokens - 1)).tolist()


def tell_peak(name: str, folder: str, args: argparse.Namespace, pipe: Connection) -> None:
    """A child: load, generate at the first two batch sizes, tell the peak memory in bytes."""
    run = LOADERS[name](folder, args)
    for batch in args.batches[:2]:
        run(prompts_of(batch, args))
    if args.device == "cuda":
        pipe.send(torch.cuda.max_memory_allocated())
    else:
        pipe.send(resident_bytes("VmHWM"))  # getrusage's peak begins at the parent's


def peak_bytes(name: str, folder: str, args: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=tell_peak, args=(name, folder, args, theirs))
    child.start()
    theirs.close()
    peak: int = ours.recv()
    child.join()
    return peak


def reading_bandwidth(source: torch.Tensor) -> float:
    """Bytes a second that a sum over ``source`` reads; the best of five."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        source.sum().item()
        best = min(best, time.perf_counter() - start)
    return source.nbytes / best


def read_bytes(args: argparse.Namespace) -> int:
    """What one step reads: every matrix once, of the embedding the projection's."""
    layers, dim, _ = SHAPES[args.shape]
    itemsize: int = getattr(torch, args.dtype).itemsize
    return (layers * 12 * dim * dim + VOCAB_SIZE * dim) * itemsize


def compare(batch: int, runs: dict[str, Run], args: argparse.Namespace) -> Result:
    """Rounds of one batch size, until its time is over."""
    prompts = prompts_of(batch, args)
    source = torch.ones(READ_FLOATS, device=args.device)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    bandwidth, deadline = 0.0, time.perf_counter() + args.seconds
    tokens = {name: run(prompts) for name, run in runs.items()}  # warms up
    while not rates["ours"] or (
        len(rates["ours"]) < args.rounds and time.perf_counter() < deadline
    ):
        for name, run in runs.items():
            start = time.perf_counter()
            run(prompts)
            rates[name].append(batch * args.new_tokens / (time.perf_counter() - start))
        bandwidth = max(bandwidth, reading_bandwidth(source))
    ours, theirs = rates["ours"], rates["hugging face"]
    return Result(
        batch,
        max(ours),
        max(theirs),
        statistics.median(a / b for a, b in zip(ours, theirs)),
        bandwidth,
        batch * bandwidth / read_bytes(args),
        tokens["ours"] == tokens["hugging face"],
    )


HEAD = [
    "| batch | ours tok/s | Hugging Face | ratio | read GB/s | bound tok/s | of bound | same tokens |",
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
]


def line_of(r: Result) -> str:
    return (
        f"| {r.batch} | {r.ours:.1f} | {r.hugging_face:.1f} | {r.ratio:.2f} | {r.bandwidth / 1e9:.1f} | "
        f"{r.bound:.1f} | {r.ours / r.bound:.0%} | {'yes' if r.same_tokens else 'NO'} |"
    )


def goals(results: list[Result], peaks: dict[str, int]) -> list[str]:
    """What was wanted, as far as it was measured, and what was seen."""
    seen = {result.batch: result for result in results}
    told = []
    if 1 in seen:
        share = seen[1].ours / seen[1].bound
        told.append(f"- batch 1, of the bound: {share:.0%}, wanted at least 80%")
    if 8 in seen:
        told.append(f"- batch 8, beside Hugging Face: {seen[8].ratio:.2f}, wanted at least 3")
    share = peaks["ours"] / peaks["hugging face"]
    told.append(f"- peak memory, beside Hugging Face's: {share:.2f}, wanted at most 1")
    return told


def report(results: list[Result], peaks: dict[str, int], args: argparse.Namespace) -> str:
    """Everything as Markdown."""
    where = f"{torch.get_num_threads()} CPU threads"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    lines = [
        f"# {date.today()}, greedy decoding",
        "",
        f"OPT {args.shape}, saved as {args.saved_as or args.dtype}, {args.dtype} on {where}, torch {torch.__version__}, {args.prompt_tokens} prompt and "
        f"{args.new_tokens} new tokens.",
        f"Load averages of the machine at the end, these contenders included: {os.getloadavg()}.",
        "",
        *HEAD,
        *map(line_of, results),
    ]
    told = ", ".join(f"{name} {peak / 2**20:,.0f} MiB" for name, peak in peaks.items())
    batches = " and ".join(map(str, args.batches[:2]))
    lines += ["", f"Peak memory, loaded and generated at batch {batches}: {told}.", ""]
    return "\n".join([*lines, *goals(results, peaks), ""])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8, 16, 64], help="prompts at once"
    )
    parser.add_argument("--prompt-tokens", type=int, default=32, help="with the leading </s>")
    parser.add_argument("--new-tokens", type=int, default=32, help="per prompt")
    parser.add_argument("--rounds", type=int, default=8, help="most turns of each contender")
    parser.add_argument("--seconds", type=float, default=15.0, help="of rounds per batch size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--saved-as", choices=DTYPES, help="the model's files (default: --dtype)")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, args.shape, args.saved_as or args.dtype)
        runs = {name: load(folder, args) for name, load in LOADERS.items()}
        results = []
        for batch in args.batches:  # told as they come: whoever ends it early has something
            results.append(compare(batch, runs, args))
            sys.stderr.write(line_of(results[-1]) + "\n")
        runs.clear()
        peaks = {name: peak_bytes(name, folder, args) for name in LOADERS}
    text = report(results, peaks, args)
    sys.stdout.write(text)
    if args.results:
        args.results.write_text(text)
    return 0 if all(r.same_tokens for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
