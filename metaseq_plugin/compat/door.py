"""Refuse a user's mistake in one sentence with exit status 2, from every ``fairseq-*`` command.

fairseq answers a mistake with a traceback, or with 200 lines of usage. This seam stands around
``cli_main`` of each command: a ``UserError`` anywhere in the chain of exceptions is printed as its
sentence; the few mistakes that fairseq itself detects are put into the same grammar. A run of
several ranks says it once, and a rank that loses another one says so, with exit status 1
(``last_words``). Ctrl-C ends in one word, with exit status 130. Everything else is a bug, and keeps its
traceback and exit status 1.
"""

import argparse
import difflib
import os
import re
import signal
import sys
from functools import wraps
from types import ModuleType
from typing import Any, Callable, Iterator, NoReturn, Optional, Sequence

from metaseq_plugin.compat.errors import EXIT_LOST_RANK, EXIT_USER_ERROR, UserError
from metaseq_plugin.compat.host import registered

# What fairseq says of a user's mistake -> what we say of it, with the groups of the pattern.
HOST_MISTAKES = (
    (
        FileNotFoundError,
        r"(?P<path>.*metaseq_plugin)",
        "`--user-dir` must name the plugin's folder, but {path} is not there. Set --user-dir metaseq_plugin.",
    ),
    (
        OSError,
        r"Model file not found: (?P<path>.*)",
        "`--path` must name a checkpoint, but {path} does not exist. Set one that does.",
    ),
    (
        ValueError,
        r"--finetune-from-model (?P<path>.*) does not exist",
        "`--finetune-from-model` must name a checkpoint, but {path} does not exist. Set one that does.",
    ),
    (
        (AssertionError, RuntimeError),
        r"(?s)(?:Torch not compiled with CUDA enabled|Found no NVIDIA driver.*)",
        "A CUDA device must be there for what was asked, but torch finds none. Set --cpu, and leave "
        "--fp16 out or set --fp16-no-flatten-grads too.",
    ),
    (
        AssertionError,
        r"--sampling requires --nbest to be equal to --beam",
        "`--nbest` must equal `--beam` with --sampling, but does not. Set both to the same number.",
    ),
    (
        ValueError,
        r"Cannot combine --fp16 and --tpu, use --bf16 on TPUs",  # which --bf16 means, to fairseq
        "`--fp16` must be left out with --bf16, but both are set. Set one of them.",
    ),
    (
        AssertionError,
        r"(?P<option>--[a-z-]+) (?P<rest>(?:requires|cannot|must) .*)",
        "`{option}` {rest}.",
    ),
    (
        AssertionError,
        r"(?P<what>Criterion|Optimizer) does not match; .* (?P<saved>\S+) vs (?P<ours>\S+)",
        "The checkpoint's {what} must be this run's ({ours}), but is {saved}. Set it alike, or "
        "--reset-optimizer.",
    ),
    (
        AssertionError,
        r"(?:Must|Please) specify batch size either with --max-tokens or --batch-size",
        "`--batch-size` or `--max-tokens` must be given, but neither is. Set one of them.",
    ),
)

MAX_SUGGESTIONS = 16  # more are a list that nobody reads
EXIT_INTERRUPTED = 128 + signal.SIGINT
SPAWNED = f"{UserError.__module__}.{UserError.__qualname__}: "


def chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    """``error`` and the exceptions it was raised from, or while handling which it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sentence_of(error: BaseException) -> Optional[str]:
    """The sentence for the user, or None where ``error`` is not a user's mistake."""
    for link in chain(error):
        if isinstance(link, UserError):
            # A data worker's exception arrives with its traceback as text; the sentence is at its end.
            return str(link).rsplit("UserError: ", 1)[-1].strip()
        if type(link).__name__ == "ProcessRaisedException" and SPAWNED in str(link):
            return str(link).rsplit(SPAWNED, 1)[-1].strip()  # a rank's, with its traceback as text
    for link in chain(error):
        for kind, pattern, message in HOST_MISTAKES:
            match = re.fullmatch(pattern, str(link))
            if isinstance(link, kind) and match:
                return message.format(**match.groupdict())
    return None


def suggestions(value: str, choices: Sequence[str]) -> Sequence[str]:
    """The ``choices`` to name in the place of ``value``: all of a small family in order, as sizes are.

    A family is what has the same word before the first underscore.
    """
    near = difflib.get_close_matches(value.lower(), choices, n=3, cutoff=0.5)
    word = (near[0] if near else value.lower()).split("_")[0]
    family = [choice for choice in choices if choice.split("_")[0] == word]
    return family if 0 < len(family) <= MAX_SUGGESTIONS else near or choices[:8]


def refuse_usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """What argparse's ``error`` says, without the usage of 200 options in front of it."""
    wrong = re.fullmatch(
        r"argument (?P<option>\S+?)(?:/-\w)?: invalid choice: '(?P<value>.*?)' \(choose from (?P<choices>.*)\)",
        message,
    )
    if wrong:
        choices = [choice.strip().strip("'") for choice in wrong["choices"].split(",")]
        plugin = "" if registered() else ", and --user-dir metaseq_plugin for those of OPT"
        raise UserError(
            f"`{wrong['option']}` must be one of its registered names, but is {wrong['value']}. "
            f"Set for example {', '.join(suggestions(wrong['value'], choices))}{plugin}."
        )
    argument = re.fullmatch(r"argument (?P<option>\S+?)(?:/-\w)?: (?P<problem>.*)", message)
    if argument:
        problem = re.sub(
            r"^invalid (\S+) value: ", r"must be of type \1, but is ", argument["problem"]
        )
        raise UserError(f"`{argument['option']}` {problem}. See {parser.prog} --help.")
    raise UserError(f"{message[:1].upper()}{message[1:]}. See {parser.prog} --help.")


class OneSentenceParser(argparse.ArgumentParser):
    """``argparse.ArgumentParser`` whose mistakes are ``UserError``s."""

    def error(self, message: str) -> NoReturn:
        refuse_usage(self, message)


def guarded(cli_main: Callable[..., Any], command: str) -> Callable[..., Any]:
    """``cli_main``, ending in one sentence on a user's mistake and on the loss of a rank."""

    def say(words: str) -> None:
        sys.stdout.flush()
        print(f"{command}: {words}", file=sys.stderr, flush=True)  # noqa: T201

    def say_error(sentence: str) -> None:
        say(f"error: {sentence}")

    @wraps(cli_main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return cli_main(*args, **kwargs)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun sends a second one
            if os.environ.get("RANK", "0") == "0":
                say("interrupted")
            raise SystemExit(EXIT_INTERRUPTED) from None
        except Exception as error:
            # Not before: it imports torch.distributed.
            from metaseq_plugin.compat.last_words import lost_rank, say_once

            sentence = sentence_of(error)
            if sentence is not None:
                say_once(sentence, say_error)
                raise SystemExit(EXIT_USER_ERROR) from None
            sentence = lost_rank(error)
            if sentence is not None:
                say_error(sentence)
                raise SystemExit(EXIT_LOST_RANK) from None
            raise

    return wrapper


def refuse_usage_briefly(options: Any) -> None:
    """Give the module a stand-in for ``argparse``, whose ``ArgumentParser`` is ours."""
    stand_in = ModuleType(argparse.__name__)
    vars(stand_in).update(vars(argparse), ArgumentParser=OneSentenceParser)
    options.argparse = stand_in


def guard(command: Any) -> None:
    name = command.__name__.rsplit(".", 1)[-1].replace("_", "-")
    command.cli_main = guarded(command.cli_main, f"fairseq-{name}")
