"""What ``--document-attention`` costs: training updates with and without it, on the same tokens.

    python -m benchmarks.document_attention --threads 2
    python -m benchmarks.document_attention --device cuda --tokens-per-sample 2048 --batch-size 8

Both contenders are ours, through fairseq's ``Trainer.train_step``, and take turns
(``benchmarks/turns.py``). Rows hold documents of ``--document-tokens`` on average. A round of one is
followed at once by a round of the other, and the ratio is the median over those pairs, which a busy
machine moves less than the times themselves.
"""

import argparse
import statistics
from itertools import count

import torch

from benchmarks.contenders import OURS, sample_of, tokens_of, trainer_of
from benchmarks.turns import Round, add_machine_options, machine, parse_options, take_turns

WITHOUT, WITH = "rows", "documents"
EOS = 2


def prepare(name: str, options: argparse.Namespace) -> Round:
    """One update over rows of documents that end at random."""
    torch.manual_seed(0)
    trainer = trainer_of(OURS, options, *(["--document-attention"] if name == WITH else []))
    numbers = count()

    def update() -> None:
        number = next(numbers)
        tokens = tokens_of(number, options)  # (B, T + 1)
        generator = torch.Generator().manual_seed(number)
        ends = torch.rand(tokens.shape, generator=generator) < 1 / options.document_tokens
        trainer.train_step([sample_of(tokens.masked_fill(ends, EOS))])

    return update


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="opt_125m", help="name of a size, opt_…")
    parser.add_argument("--tokens-per-sample", type=int, default=512, help="tokens T in a sample")
    parser.add_argument("--batch-size", type=int, default=2, help="samples B in an update")
    parser.add_argument("--document-tokens", type=int, default=128, help="mean tokens a document")
    parser.add_argument("--updates", type=int, default=7, help="timed updates of each")
    parser.add_argument("--dropout", type=float, default=0.1, help="probability")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="probability")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--memory-efficient", action="store_true")
    parser.add_argument("--compile", action="store_true")
    add_machine_options(parser)
    options = parse_options(parser)
    results = take_turns(prepare, [WITHOUT, WITH], options, options.updates, warm_up=2)
    pairs = [b / a for a, b in zip(results[WITHOUT].seconds, results[WITH].seconds)]
    print(
        f"{options.arch}, {options.batch_size} x {options.tokens_per_sample} tokens, {machine(options)}"
    )
    for name, result in results.items():
        print(
            f"{name:10} median {statistics.median(result.seconds):.3f} s, best {result.best:.3f} s"
        )
    print(f"ratio: median of pairs {statistics.median(pairs):.3f}, "
          f"of the best {results[WITH].best / results[WITHOUT].best:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
