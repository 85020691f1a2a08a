"""``--help`` of a ``fairseq-*`` command shows the options and defaults of what was chosen beside it.

    fairseq-train --user-dir metaseq_plugin --task opt_language_modeling --arch opt_125m \\
        --criterion chunked_cross_entropy --optimizer adamw --help

fairseq parses twice: first for the names of the task, arch, criterion and optimizer, then, with their
options added, for all. Its parser prints help in the first pass, which knows none of them. Here
(1) the first pass does not see ``--help``; (2) fairseq adds the options of what was chosen, an arch that
was not being left out; (3) where the second pass would begin, the help is printed, with every default.
"""

import argparse
import re
import sys
from functools import wraps
from typing import Any, Callable, Dict, List, Optional, Sequence

from metaseq_plugin.compat.host import registered

HELP = ("-h", "--help")
DEFAULT_IN_WORDS = re.compile(r"\s*\(default: [^()]*\)?$")  # also fairseq's, which leaves one open


class HelpWithDefaults(argparse.HelpFormatter):
    """Says the default of every option that has one, once."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        text, default = action.help, action.default
        has_default = not (default is None or default is False or default == "")
        # "==SUPPRESS==", or "${…}" for the value of another option.
        if not text or not has_default or str(default).startswith(("${", argparse.SUPPRESS)):
            return text
        return f"{DEFAULT_IN_WORDS.sub('', text)} (default: %(default)s)"


def showing_all(parse_args_and_arch: Callable[..., Any]) -> Callable[..., Any]:
    """``parse_args_and_arch`` whose help has the options of what was chosen."""

    @wraps(parse_args_and_arch)
    def wrapper(
        parser: argparse.ArgumentParser,
        input_args: Optional[Sequence[str]] = None,
        *more: Any,
        modify_parser: Optional[Callable[[argparse.ArgumentParser], None]] = None,
        **named: Any,
    ) -> Any:
        typed = sys.argv[1:] if input_args is None else list(input_args)
        asked = [argument for argument in typed if argument not in HELP]
        if asked == typed:
            return parse_args_and_arch(
                parser, input_args, *more, modify_parser=modify_parser, **named
            )
        # fairseq calls modify_parser before each of its two passes.
        steps = iter((leave_out_arch, lambda parser: show(parser, asked)))

        def modify(parser: argparse.ArgumentParser) -> None:
            if modify_parser is not None:
                modify_parser(parser)
            next(steps)(parser)

        return parse_args_and_arch(parser, asked, modify_parser=modify)

    return wrapper


def leave_out_arch(parser: argparse.ArgumentParser) -> None:
    """Let fairseq go on without the options of an arch where none is given."""
    for action in parser._actions:
        if action.dest == "arch" and action.default is None:
            action.default = argparse.SUPPRESS


def show(parser: argparse.ArgumentParser, asked: List[str]) -> None:
    """Print the help of ``parser`` for the choices in ``asked``, and end with status 0."""
    arch_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    arch_parser.add_argument("--arch", "-a")
    defaults = arch_defaults(arch_parser.parse_known_args(asked)[0].arch)
    for action in parser._actions:
        if action.default in (None, argparse.SUPPRESS):
            action.default = defaults.get(action.dest, action.default)
    parser.formatter_class = HelpWithDefaults
    if registered() is not None:
        parser.epilog = "`metaseq help train` shows the options of metaseq-plugin alone."
    parser.print_help()
    parser.exit()


def arch_defaults(arch: Optional[str]) -> Dict[str, Any]:
    """Option → its default under ``--arch arch``, which fairseq keeps from its parser."""
    from fairseq.models import (
        ARCH_CONFIG_REGISTRY,
        ARCH_MODEL_NAME_REGISTRY,
        MODEL_DATACLASS_REGISTRY,
    )

    if arch is None:
        return {}
    filled = argparse.Namespace()
    if arch in ARCH_CONFIG_REGISTRY:
        ARCH_CONFIG_REGISTRY[arch](filled)
    config = MODEL_DATACLASS_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY.get(arch, arch))
    return {**({} if config is None else vars(config())), **vars(filled)}
