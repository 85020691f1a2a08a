"""What choosing a token costs: a batch's rows by one setting, by as many settings as rows, row by row.

    python -m benchmarks.choosing --rows 16 --threads 2

Logits fall as 1 / rank^exponent, as words do. "one setting" and "Hugging Face" do the same: temperature
0.8, top-p 0.9. "many settings" gives every row its own temperature, top-k or top-p, or makes it greedy;
"row by row" chooses for the same rows one after the other. "penalties" is "one setting" with penalties.
"""

import argparse
import sys

import torch
from torch import Tensor

from benchmarks.turns import Round, add_machine_options, machine, parse_options, take_turns
from metaseq_plugin.generation.sampler import Sampler
from metaseq_plugin.generation.settings import Settings

VOCAB_SIZE, PAD, EOS = 50_272, 1, 2
NAMES = ("one setting", "many settings", "row by row", "penalties", "Hugging Face")
# A round is so many steps, each with its own logits, so that no cache holds them.
STEPS = 20
ONE = Settings(seed=1, temperature=0.8, top_p=0.9)
PENALISED = Settings(
    seed=1, temperature=0.8, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.1
)


def many(rows: int) -> list[Settings]:
    """As many settings as rows."""
    ways = []
    for row in range(rows):
        temperature, share = 0.7 + 0.4 * row / rows, 0.8 + 0.15 * row / rows
        ways.append(
            [
                Settings(seed=1, temperature=temperature),
                Settings(seed=1, temperature=temperature, top_p=share),
                Settings(seed=1, temperature=temperature, top_k=40 + row),
                Settings(temperature=0.0, min_new_tokens=row),
            ][row % 4]
        )
    return ways


def zipf_logits(rows: int, exponent: float) -> Tensor:
    """(rows, V), each row's tokens in another order."""
    random = torch.Generator().manual_seed(0)
    falling = -exponent * torch.arange(1, VOCAB_SIZE + 1).log()
    return torch.stack([falling[torch.randperm(VOCAB_SIZE, generator=random)] for _ in range(rows)])


def prepare(name: str, options: argparse.Namespace) -> Round:
    logits = zipf_logits(options.rows, options.exponent).to(options.device)
    if name == "Hugging Face":
        return hugging_face(logits)
    common = PENALISED if name == "penalties" else ONE
    is_mixed = name in ("many settings", "row by row")
    settings = many(options.rows) if is_mixed else [common] * options.rows
    size = 1 if name == "row by row" else options.rows
    samplers = []
    for first in range(0, options.rows, size):
        samplers.append(sampler := Sampler(PAD, EOS, logits.device))
        own = settings[first : first + size]
        sampler.join(own, [[EOS, 5]] * size, [torch.rand(size, 2048)], VOCAB_SIZE)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(STEPS):
            for part, sampler in zip(logits.clone().split(size), samplers):
                sampler.choose(part)

    return run


def hugging_face(logits: Tensor) -> Round:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    bend = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.9)])
    read = torch.full((len(logits), 8), 5, device=logits.device)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(STEPS):
            torch.multinomial(bend(read, logits.clone()).softmax(-1), 1)  # type: ignore[arg-type]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16, help="rows of the batch")
    parser.add_argument("--exponent", type=float, default=1.4, help="how fast probabilities fall")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    add_machine_options(parser)
    options = parse_options(parser)
    results = take_turns(prepare, NAMES, options, options.rounds, warm_up=1)
    base = results["one setting"].best
    sys.stdout.write(f"{options.rows} rows of {VOCAB_SIZE} tokens, {machine(options)}\n")
    for name, result in results.items():
        sys.stdout.write(
            f"{name:14} {1000 * result.best / STEPS:8.2f} ms a step   {result.best / base:6.2f}\n"
        )


if __name__ == "__main__":
    main()
