"""Write a model's card: sizes, training, measures, harms, limits.

    metaseq card runs/quickstart > CARD.md
    metaseq card runs/quickstart --output CARD.md --licence mit --intended-use use.md
    metaseq card opt-125m-hf --results results.json

PATH is a run folder, a checkpoint, a Hugging Face folder or metaseq's files. Training, energy and carbon are the
account of the ledger beside it (`metaseq report` shows all of it); figures are those of `metaseq eval`, with the
published number of the nearest OPT. What is not known is said to be unknown.
"""

import argparse
import sys
from pathlib import Path

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.card.document import card
from metaseq_plugin.evaluate.card.facts import read_facts
from metaseq_plugin.evaluate.command import say
from metaseq_plugin.pages.html import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="the model")
    add("--output", type=Path, metavar="CARD.md", help="a file; default: the card is printed")
    add("--results", type=Path, nargs="+", metavar="FILE",
        help="results of `metaseq eval`; default: those in PATH/eval of a run folder")  # fmt: skip
    add("--name", help="what the model is called; default: its folder's name")
    add("--licence", metavar="TEXT", help="under which it is given, as mit; default: unknown")
    add(
        "--intended-use", type=Path, metavar="FILE", help="Markdown on what it is for, and what not"
    )
    add("--data", type=Path, help="folder with the tokenizer's files, if not beside the weights")
    add("--trust-pickle", action="store_true", help="as `metaseq convert` has it")


def run(args: argparse.Namespace) -> None:
    """Write or print the card; raises UserError for a mistake."""
    use = None if args.intended_use is None else read_text(args.intended_use)
    facts = read_facts(args.path, args.name, args.results, args.data, args.trust_pickle)
    text = card(facts, args.licence, use)
    if args.output is None:
        say(text.splitlines())
        return
    write(args.output, text, "--output")
    print(f"Written: {args.output}", file=sys.stderr)  # noqa: T201


def read_text(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"`--intended-use` must be a text file that can be read, but {path} cannot ({error}). Set another."
        ) from error
    if not text.strip():
        raise UserError(
            f"`--intended-use` must say what the model is for, but {path} is empty. Write it, or leave it out."
        )
    return text
