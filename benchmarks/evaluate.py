"""Items/s of an evaluation: `lm_eval --model metaseq_opt` beside lm_eval's own class ``hf``, the same model and items.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluate --threads 1

A model of the 125M's shape with random weights answers four kinds of items of random words: pairs of sentences that
differ in a word (as CrowS-Pairs), the last word of a passage (LAMBADA), four answers to a question (ARC), four
endings behind a long passage (HellaSwag with examples). Both classes get the same requests in one list, and the same
--batch-size; tokenizing counts. Every answer is compared afterwards. It takes some minutes.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import Round, add_machine_options, machine, parse_options, take_turns
from metaseq_plugin.formats.hf.config import write_tokenizer_settings
from metaseq_plugin.sizes import SIZES
from metaseq_plugin.tokenizers.files import read_byte_pairs, write_byte_pairs
from metaseq_plugin.tokenizers.train import train_byte_level_bpe

OURS, HF = "metaseq_opt", "hf"
VOCAB_SIZE, LONGEST = 50_272, 2048
TEXTS = [
    "the quick brown fox jumps over the lazy dog and runs away from all the other animals\n"
] * 8
WORDS = TEXTS[0].split()
KINDS = ("pairs of sentences", "last words", "four answers", "four endings of long passages")

Item = list[tuple[str, str]]  # its requests: a context and a continuation each


def items(kind: str, count: int) -> list[Item]:
    """``count`` items, the same each time."""
    draw = random.Random(kind)

    def words(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    def item() -> Item:
        if kind == "pairs of sentences":
            before, after = words(1, 12), words(1, 12)
            return [("", f"{before} {word} {after}") for word in draw.sample(WORDS, 2)]
        if kind == "last words":
            return [(words(50, 90), f" {words(1, 1)}")]
        least, most = (20, 40) if kind == "four answers" else (200, 300)
        context = words(least, most)
        return [(context, f" {words(2, 8)}") for _ in range(4)]

    return [item() for _ in range(count)]


def write_model(arch: str, folder: Path) -> None:
    """A model of random weights in Hugging Face's form, which both read, and a tokenizer of few words for it."""
    from transformers import OPTConfig, OPTForCausalLM

    size = SIZES[arch.removeprefix("opt_")]
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCAB_SIZE, hidden_size=size.embed_dim, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, ffn_dim=4 * size.embed_dim, max_position_embeddings=LONGEST,
        word_embed_proj_dim=size.word_embed_dim or size.embed_dim,
        do_layer_norm_before=not size.post_norm,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    with tempfile.TemporaryDirectory() as made:
        train_byte_level_bpe(TEXTS, VOCAB_SIZE, Path(made))
        pairs = read_byte_pairs(Path(made))
    assert pairs is not None
    fill = {f"<fill {number}>": number for number in range(len(pairs.vocab), VOCAB_SIZE)}
    write_byte_pairs(folder, {**pairs.vocab, **fill}, pairs.merges)
    write_tokenizer_settings(folder, LONGEST)


def class_of(name: str, options: argparse.Namespace) -> Any:
    """lm_eval's model of that name, of the same files."""
    from lm_eval.models.huggingface import HFLM

    from metaseq_plugin.evaluate.lm_eval_model import MetaseqOPT

    if name == OURS:
        return MetaseqOPT(
            path=options.folder, device=options.device, dtype=options.dtype,
            batch_size=options.batch_size,
        )  # fmt: skip
    return HFLM(
        pretrained=options.folder, device=options.device, dtype=options.dtype,
        batch_size=options.batch_size,
    )  # fmt: skip


def prepare(name: str, options: argparse.Namespace) -> Round:
    """One evaluation of all items of ``options.kind``; its answers are left in a file for comparing."""
    from lm_eval.api.instance import Instance

    model = class_of(name, options)
    asked = [request for item in items(options.kind, options.items) for request in item]
    requests = [Instance("loglikelihood", {}, one, index) for index, one in enumerate(asked)]

    def run() -> None:
        answers = model.loglikelihood(requests, disable_tqdm=True)
        torch.save(answers, Path(options.folder) / f"{name}.answers")

    return run


def compared(folder: Path) -> float:
    """The largest difference between two answers; whether tokens are the likeliest must be the same."""
    ours, theirs = (torch.load(folder / f"{name}.answers") for name in (OURS, HF))
    for (_, is_greedy), (_, expected) in zip(ours, theirs, strict=True):
        if is_greedy != expected:
            raise ValueError(
                "one class says of a continuation that it is the likeliest, the other does not"
            )
    return max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arch", default="opt_125m", help="size of the model")
    parser.add_argument("--items", type=int, default=16, help="items of each kind")
    parser.add_argument("--batch-size", type=int, default=16, help="rows at once, for both")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    add_machine_options(parser)
    options = parse_options(parser)
    say = sys.stdout.write
    say(f"{options.arch}, {options.items} items, batch {options.batch_size}, {machine(options)}\n")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        write_model(options.arch, Path(folder))
        for kind in KINDS:
            options.kind = kind
            results = take_turns(prepare, (OURS, HF), options, options.rounds, warm_up=1)
            ours, theirs = (options.items / results[name].best for name in (OURS, HF))
            say(
                f"{kind:30} {ours:8.2f} items/s, {HF} {theirs:8.2f}: {ours / theirs:5.2f} times; "
                f"answers differ by at most {compared(Path(folder)):.0e}\n"
            )


if __name__ == "__main__":
    main()
