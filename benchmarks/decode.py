"""Greedy decoding, tokens a second: this plugin beside Hugging Face's ``generate()``.

    OMP_NUM_THREADS=2 python benchmarks/decode.py
    python benchmarks/decode.py --device cuda --dtype bfloat16 --rounds 5

The steps:
(1) one random model of the 125M's shape is written as a Hugging Face folder;
(2) each contender loads it in a child process of its own, so that peak memory can be told apart;
(3) the children take turns, round by round, at the same prompts, and must give the same tokens;
(4) the machine's copy bandwidth is measured in between, read plus write, and with it the bound: every
    step reads all matrices once, so tokens/s ≤ batch · bandwidth / bytes of the matrices.

Rates are of the best round, ratios the median over rounds of the same turn: other work on the machine
then falls on both.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any, Callable, NamedTuple

import torch

# (layers, model dim, heads)
SHAPES = {"125m": (12, 768, 12), "1.3b": (24, 2048, 32), "6.7b": (32, 4096, 32), "tiny": (2, 64, 2)}
VOCAB_SIZE = 50272
CONTENDERS = ("ours", "hugging face")
COPIED_FLOATS = 32 * 1024 * 1024  # 128 MiB, beyond every cache


class Round(NamedTuple):
    """One turn of one contender."""

    seconds: float
    tokens: list[list[int]]


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


def load_ours(folder: str, args: argparse.Namespace) -> Callable[[list[list[int]]], Any]:
    from metaseq_plugin.hub import OPT

    opt = OPT.from_pretrained(folder, device=args.device, dtype=args.dtype)

    def run(prompts: list[list[int]]) -> list[list[int]]:
        found = opt.generate(
            prompts, args.new_tokens, min_new_tokens=args.new_tokens, temperature=0.0,
            with_scores=False,
        )  # fmt: skip
        return [completions[0].tokens for completions in found]

    return run


def load_hugging_face(folder: str, args: argparse.Namespace) -> Callable[[list[list[int]]], Any]:
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


def contend(name: str, folder: str, args: argparse.Namespace, pipe: Connection) -> None:
    """A child: load, then run each batch of prompts it is sent; ``None`` asks for its peak memory."""
    load = load_ours if name == "ours" else load_hugging_face
    run = load(folder, args)
    pipe.send("ready")
    while (prompts := pipe.recv()) is not None:
        start = time.perf_counter()
        tokens = run(prompts)
        pipe.send(Round(time.perf_counter() - start, tokens))
    if args.device == "cuda":
        pipe.send(torch.cuda.max_memory_allocated())
    else:
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy moves, read plus written; the best of ten."""
    source = torch.ones(COPIED_FLOATS, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


def compare(args: argparse.Namespace, pipes: dict[str, Connection]) -> list[dict[str, Any]]:
    """All rounds of all batch sizes; one result per batch size."""
    layers, dim, _ = SHAPES[args.shape]
    itemsize = getattr(torch, args.dtype).itemsize
    read_bytes = (layers * 12 * dim * dim + VOCAB_SIZE * dim) * itemsize
    results = []
    for batch in args.batches:
        torch.manual_seed(batch)
        prompts = torch.randint(4, VOCAB_SIZE, (batch, args.prompt_tokens - 1)).tolist()
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        tokens: dict[str, list[list[int]]] = {}
        bandwidth = 0.0
        for number in range(args.rounds + 1):
            for name in CONTENDERS:
                pipes[name].send(prompts)
                done = pipes[name].recv()
                tokens[name] = done.tokens
                if number > 0:  # the first round warms up
                    rates[name].append(batch * args.new_tokens / done.seconds)
            bandwidth = max(bandwidth, copy_bandwidth(args.device))
        ours, theirs = (rates[name] for name in CONTENDERS)
        results.append(
            {
                "batch": batch,
                "ours": max(ours),
                "hugging_face": max(theirs),
                "ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
                "copy_bandwidth": bandwidth,
                "bound": batch * bandwidth / read_bytes,
                "same_tokens": tokens["ours"] == tokens["hugging face"],
            }
        )
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="prompts at once")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="with the leading </s>")
    parser.add_argument("--new-tokens", type=int, default=96, help="per prompt")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contender, best counts"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--json", help="file to write the results to")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    with tempfile.TemporaryDirectory() as folder:
        writer = context.Process(target=write_model, args=(folder, args.shape, args.dtype))
        writer.start()
        writer.join()
        for name in CONTENDERS:
            pipes[name], theirs = context.Pipe()
            context.Process(target=contend, args=(name, folder, args, theirs), daemon=True).start()
            assert pipes[name].recv() == "ready"
    results = compare(args, pipes)
    peaks = {}
    for name, pipe in pipes.items():
        pipe.send(None)
        peaks[name] = pipe.recv()
    write = sys.stdout.write
    write(f"OPT {args.shape}, {args.dtype} on {args.device}, {torch.get_num_threads()} threads, ")
    write(
        f"{args.prompt_tokens} prompt and {args.new_tokens} new tokens, torch {torch.__version__}\n"
    )
    write("batch   ours tok/s   Hugging Face   ratio   bound at copy bandwidth   same tokens\n")
    for r in results:
        write(
            f"{r['batch']:5}   {r['ours']:10.1f}   {r['hugging_face']:12.1f}   {r['ratio']:5.2f}   "
            f"{r['bound']:8.1f} ({r['copy_bandwidth'] / 1e9:.1f} GB/s)"
            f"{'':8}{'yes' if r['same_tokens'] else 'NO'}\n"
        )
    write("peak memory: " + ", ".join(f"{n} {b / 2**20:,.0f} MiB" for n, b in peaks.items()) + "\n")
    if args.json:
        with open(args.json, "w") as stream:
            json.dump({"arguments": vars(args), "results": results, "peak_bytes": peaks}, stream)
    return 0 if all(r["same_tokens"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
