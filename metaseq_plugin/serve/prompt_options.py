"""The options of `metaseq generate`: those of ``OPT.generate``, by the same names, and where things are.

An option that is not given is left to ``OPT.generate``, so that its default has one home.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tensors import DTYPES
from metaseq_plugin.generation.options import (
    MEANINGS,
    SPELLED,
    default_of,
    read_options,
)
from metaseq_plugin.generation.settings import Settings

# Named otherwise, or not here at all: --json says whether scores are wanted.
APART = ("stop", "logit_bias", "echo", "with_scores")
FLAGS = {name: f"--{name.replace('_', '-')}" for name in MEANINGS}
# How a user of this command writes the names of ``SPELLED``.
WRITTEN = {name: FLAGS.get(spelled, spelled) for name, spelled in SPELLED.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.usage = "metaseq generate [options] PATH [PROMPT]"
    add("words", nargs="*", metavar="PATH PROMPT", help="the model, and the text to go on with")
    add("--path", help="the same as PATH")
    add("--prompt", metavar="TEXT", help="the same as PROMPT")
    add("--file", type=Path, help="prompts, one a line, in place of PROMPT")
    add("--output", type=Path, metavar="FILE", help="of --file: where results go")
    add("--json", action="store_true", help="print a JSON object for each prompt")
    sampling = parser.add_argument_group("how to go on (defaults in brackets)")
    for name, flag in FLAGS.items():
        if name not in APART:
            default = default_of(name)
            kind = float if isinstance(default, float) else int
            shown = "" if default is None else f" ({default})"
            meaning = MEANINGS[name]
            sampling.add_argument(flag, type=kind, metavar="N", help=meaning.replace("%", "%%") + shown)  # fmt: skip
    sampling.add_argument(FLAGS["stop"], action="append", metavar="TEXT",
        help="end before this text; may be given again")  # fmt: skip
    sampling.add_argument(FLAGS["logit_bias"], action="append", type=bias, metavar="ID=NUMBER",
        help="add to the logit of a token; may be given again")  # fmt: skip
    sampling.add_argument(
        FLAGS["echo"], action=argparse.BooleanOptionalAction, help="begin with the prompt"
    )
    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--data", help="the tokenizer's folder; default: PATH's, or its data's")
    add("--dtype", metavar="TYPE", help=f"{', '.join(DTYPES)}; default: float32 on CPUs")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if any")
    add("--model-parallel-size", type=int, default=1, metavar="N",
        help="devices over which each matrix is cut (1)")  # fmt: skip
    add("--batch-size", type=int, metavar="N",
        help="of --file: lines at once; default: what fits, of 64")  # fmt: skip
    add("--trust-pickle", action="store_true",
        help="read files that can run any program on this machine")  # fmt: skip


def bias(text: str) -> tuple[int, float]:
    """(token, number) of "464=-100"; raises ValueError for anything else."""
    token, _, number = text.partition("=")
    return int(token), float(number)


def path_and_prompt(args: argparse.Namespace) -> tuple[str, Optional[str]]:
    """What --path and --prompt say, or the words in their place."""
    words = list(args.words)
    path = args.path if args.path is not None or not words else words.pop(0)
    prompt = args.prompt if args.prompt is not None or not words else words.pop(0)
    if words:
        raise UserError(
            f"PATH and PROMPT must be given once each, but there is also {words[0]!r}. "
            "Put the prompt into quotes."
        )
    if path is None:
        raise UserError("`--path` must name a model, but is not set. Set a run folder, say.")
    return path, prompt


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of ``OPT.generate`` that were given, by its names."""
    given = {name: vars(args)[name] for name in FLAGS if name != "with_scores"}
    if given["logit_bias"] is not None:
        given["logit_bias"] = dict(given["logit_bias"])
    return {name: value for name, value in given.items() if value is not None}


def check(args: argparse.Namespace, prompt: Optional[str]) -> None:
    """Refuse what cannot go together, and what no model could do, before one is loaded."""
    if args.file is not None and prompt is not None:
        raise UserError("`--file` must come without a prompt, but there is one. Leave it out.")
    if args.output is not None and args.file is None:
        raise UserError("`--output` must come with --file, but does not. Redirect the output.")
    if args.top_scores and not (args.json or args.file):
        raise UserError(
            f"`--top-scores` must come with --json or --file, but is {args.top_scores}. Set --json."
        )
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"`--batch-size` must be at least 1, but is {args.batch_size}. Set 8, say.")
    check_options(given_options(args), WRITTEN)


def check_options(options: Mapping[str, Any], spelled: Mapping[str, str] = SPELLED) -> None:
    """Refuse options that no model could follow."""
    read_options(options, sys.maxsize, True, spelled)


def is_one_sample(options: Mapping[str, Any]) -> bool:
    """Whether a prompt gets one continuation, which can be shown as it comes."""
    beam, samples = (options.get(n, vars(Settings)[n]) for n in ("beam", "num_samples"))
    return max(beam, samples, options.get("best_of", 1)) == 1
