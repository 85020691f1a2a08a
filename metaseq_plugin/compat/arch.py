"""``--arch`` may be left out where the run starts from a checkpoint, which knows it.

``fairseq.options.parse_args_and_arch`` ends in an empty ``RuntimeError`` without it. For a task of the
host's, the checkpoint's own flags are put in front of what was typed, which therefore wins.
"""

import sys
from functools import wraps
from typing import Any, Callable, Optional, Sequence

from metaseq_plugin.compat.host import registered

HELP = {"-h", "--help"}


def completed(parser: Any, typed: Sequence[str]) -> Sequence[str]:
    """``typed``, with the flags of the checkpoint where ``parser`` trains a model and none is named."""
    host = registered()
    if host is None or HELP & set(typed):
        return typed
    args, _ = parser.parse_known_args(typed)
    # Other commands than those that train have no --arch, or one with a default.
    if "arch" not in args or args.arch is not None or not host.owns_task(args.task):
        return typed
    return [*host.architecture(args), *typed]


def taking_the_checkpoints(parse_args_and_arch: Callable[..., Any]) -> Callable[..., Any]:
    """``parse_args_and_arch``, with the architecture of the checkpoint where none is typed."""

    @wraps(parse_args_and_arch)
    def wrapper(
        parser: Any, input_args: Optional[Sequence[str]] = None, *more: Any, **named: Any
    ) -> Any:
        typed = sys.argv[1:] if input_args is None else input_args
        return parse_args_and_arch(parser, completed(parser, typed), *more, **named)

    return wrapper
