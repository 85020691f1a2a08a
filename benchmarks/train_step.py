"""Tokens a second of one training update: ours, Hugging Face's OPT and fairseq's ``transformer_lm``.

    python -m benchmarks.train_step --arch opt_125m --tokens-per-sample 512 --batch-size 2
    python -m benchmarks.train_step --device cuda --arch opt_125m opt_1.3b --batch-size 32 --compile

The same shape and tokens for all, taking turns in one run (``benchmarks/turns.py``); what each does is
in ``benchmarks/contenders.py``. The fourth contender, a large matrix product of the same type, is the
ceiling: "of ceiling" is the share of that rate that a contender's model FLOPs reach.

Model FLOPs a token, forward and backward: 6N + 12·L·D·T, where N counts the weights that multiply
(layers and output projection), L layers, D model dim, T tokens; attention counts as a full square,
and nothing that is recomputed counts. Time is the median of the rounds; "best" is the shortest.
"""

import argparse
import shlex
import statistics
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Dict, List

from benchmarks.contenders import (
    FAIRSEQ,
    HUGGING_FACE,
    OURS,
    PRODUCT_SIZE,
    PRODUCTS,
    VOCAB,
    prepare,
)
from benchmarks.turns import Result, add_machine_options, machine, parse_options, take_turns
from metaseq_plugin.models.opt import SIZES


def flops_per_token(arch: str, tokens_per_sample: int) -> float:
    """6N + 12·L·D·T of the module's docstring."""
    size = SIZES[arch.removeprefix("opt_")]
    dim, word_dim = size.embed_dim, size.word_embed_dim or size.embed_dim
    weights = size.layers * (4 * dim**2 + 2 * dim * 4 * size.embed_dim) + VOCAB * word_dim
    if word_dim != dim:
        weights += 2 * dim * word_dim
    return 6.0 * weights + 12.0 * size.layers * dim * tokens_per_sample


def table(arch: str, results: Dict[str, Result], options: argparse.Namespace) -> List[str]:
    """Markdown rows, one a contender."""
    tokens = options.batch_size * options.tokens_per_sample
    flops = flops_per_token(arch, options.tokens_per_sample)
    ceiling = 2.0 * PRODUCT_SIZE[options.device] ** 3 / results[PRODUCTS].best
    rows = [
        f"{arch}, {options.batch_size} x {options.tokens_per_sample} tokens, {machine(options)}, "
        f"ceiling {ceiling / 1e12:.3g} TFLOP/s, {flops / 1e9:.3f} GFLOP a token",
        "",
        "| | tokens/s | best | of ceiling | ours is faster by | peak GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    medians = {name: statistics.median(result.seconds) for name, result in results.items()}
    for name, result in results.items():
        if name != PRODUCTS:
            rate = tokens / medians[name]
            rows.append(
                f"| {name} | {rate:,.0f} | {tokens / result.best:,.0f} | {rate * flops / ceiling:.1%} "
                f"| {medians[name] / medians[OURS]:.2f} | {result.peak_bytes / 1e9:.2f} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", nargs="+", default=["opt_125m"], help="names of sizes, opt_…")
    parser.add_argument("--tokens-per-sample", type=int, default=2048, help="tokens T in a sample")
    parser.add_argument("--batch-size", type=int, default=1, help="samples B in an update")
    parser.add_argument("--updates", type=int, default=5, help="timed updates of each contender")
    parser.add_argument("--warm-up", type=int, default=2, help="updates before the timed ones")
    parser.add_argument("--dropout", type=float, default=0.1, help="of all contenders")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="of all contenders")
    parser.add_argument("--compile", action="store_true", help="ours and Hugging Face compiled")
    parser.add_argument("--checkpoint-activations", action="store_true", help="of all contenders")
    parser.add_argument("--memory-efficient", action="store_true",
                        help="16-bit weights without fp32 copies")  # fmt: skip
    parser.add_argument("--contenders", nargs="+", default=[OURS, HUGGING_FACE, FAIRSEQ],
                        choices=[OURS, HUGGING_FACE, FAIRSEQ], help="ours is always one")  # fmt: skip
    parser.add_argument("--sequential", action="store_true",
                        help="one contender in memory at a time, for large models")  # fmt: skip
    parser.add_argument("--results", type=Path, help="Markdown file to append the tables to")
    add_machine_options(parser)
    options = parse_options(parser)

    names = [OURS, *(name for name in options.contenders if name != OURS), PRODUCTS]
    rows = []
    for arch in options.arch:
        each = argparse.Namespace(**{**vars(options), "arch": arch})
        results = take_turns(
            prepare, names, each, options.updates, options.warm_up, options.sequential
        )
        rows += [*table(arch, results, options), ""]
        print("\n".join(table(arch, results, options)), flush=True)
    if options.results:
        versions = ", ".join(f"{name} {version(name)}" for name in ("fairseq", "transformers"))
        command = shlex.join(["python", "-m", "benchmarks.train_step", *sys.argv[1:]])
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("a") as file:
            file.write(f"## {date.today()}, {versions}\n\n`{command}`\n\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
