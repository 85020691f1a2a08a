"""Continue a prompt, or a file of them.

    metaseq generate runs/quickstart "import os" --max-new-tokens 40 --top-p 0.9
    metaseq generate opt-125m-hf "Once upon a time" --stop "The end" --seed 1
    echo "Once upon a time" | metaseq generate runs/quickstart --json
    metaseq generate runs/quickstart         at a terminal: a prompt line
    metaseq generate runs/quickstart --file prompts.jsonl --output results.jsonl

PATH is a run folder, a checkpoint, a Hugging Face folder or metaseq's files.
Without PROMPT the standard input is one. At a terminal each line is: Ctrl-C
ends its answer, Ctrl-D the command. An empty prompt begins a document. Text is
shown as it comes; --json gives an object with tokens and log-probabilities.

--file: lines of a .jsonl file are {"prompt": …}, perhaps with options such as
"top_p": 0.5; lines of another file are prompts. --output gets an object a line,
and the same command goes on where it was interrupted. docs/generate.md says more.
"""

import argparse
import json
import os
import sys
from contextlib import closing
from typing import Any, Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.options import Prompt
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import prompt_options
from metaseq_plugin.serve.prompt_file import answer_file
from metaseq_plugin.serve.results_file import as_record
from metaseq_plugin.serve.terminal import escaped, say, use_any_character

EXIT_NO_READER = 141  # as shells say it: 128 and the number of SIGPIPE
LINE_PROMPT = "> "

add_arguments = prompt_options.add_arguments


def run(args: argparse.Namespace) -> None:
    """Answer as asked; raises UserError for a mistake.

    (1) Options are read by name (``prompt_options``) and checked, (2) the model is loaded, (3) it answers, here or a
    file of prompts (``prompt_file``).
    """
    path, prompt = prompt_options.path_and_prompt(args)
    prompt_options.check(args, prompt)
    options = prompt_options.given_options(args)
    use_any_character(sys.stdout)
    try:
        if args.file is not None:
            answer_file(args, path, options, lambda: load(args, path))
        elif prompt is not None or not sys.stdin.isatty():
            text = read_input() if prompt is None else prompt
            answer(load(args, path), text, options, args.json)
        else:
            converse(load(args, path), options, args.json)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads: end quietly, also when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_NO_READER)


def load(args: argparse.Namespace, path: str) -> OPT:
    return OPT.from_pretrained(
        path, args.data, args.device, args.dtype, args.trust_pickle, args.model_parallel_size
    )


def read_input() -> str:
    """The standard input as one prompt, without the end of its last line."""
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"The standard input must be UTF-8 text, but byte {error.start} is not. Convert it."
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def answer(opt: OPT, prompt: Prompt, options: Mapping[str, Any], as_json: bool) -> None:
    """Print what the model makes of one prompt."""
    if as_json:
        (found,) = opt.generate([prompt], **options)
        say(json.dumps(as_record(prompt, found), ensure_ascii=False) + "\n")
        return
    show = escaped if sys.stdout.isatty() else str
    options = {"with_scores": False, **options}
    if not prompt_options.is_one_sample(options):
        (found,) = opt.generate([prompt], **options)
        for number, completion in enumerate(found, 1):
            say(f"== {number} of {len(found)}\n{show(completion.text or '')}\n")
        return
    with closing(opt.stream(prompt, **options)) as pieces:
        for piece in pieces:
            say(show(piece.text))
    say("\n")


def converse(opt: OPT, options: Mapping[str, Any], as_json: bool) -> None:
    """Answer line after line of a terminal, until Ctrl-D."""
    import readline  # noqa: F401  gives ``input`` a history and arrow keys

    sign = LINE_PROMPT if sys.stdout.isatty() else ""  # else it would be among the answers
    while (line := next_line(sign)) is not None:
        try:
            answer(opt, line, options, as_json)
        except KeyboardInterrupt:
            say("\n")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
    say("\n")


def next_line(sign: str) -> Optional[str]:
    """What is typed next; Ctrl-C begins the line anew. None: there is no more."""
    while True:
        try:
            return input(sign)
        except EOFError:
            return None
        except KeyboardInterrupt:
            say("\n")
        except UnicodeDecodeError as error:
            print(f"error: A line must be {error.encoding}, but is not.", file=sys.stderr)  # noqa: T201
