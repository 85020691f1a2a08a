"""The ``metaseq`` command: one screen of subcommands, each a thin call into the package.

    metaseq prepare corpus.jsonl --destdir data
    metaseq data inspect data
    metaseq convert runs/quickstart/checkpoint_best.pt opt-hf --to hf

A subcommand, also one of a group such as ``data``, is a module with a docstring (its first line is the
help), ``add_arguments(parser)`` and ``run(args)``. ``metaseq doctor`` does not pass through here: it must work when torch or fairseq
cannot be imported (``metaseq_plugin.compat.commands.doctor``).
"""

import argparse
import sys
from importlib import import_module
from typing import Any, Mapping, Optional, Sequence, Union

from metaseq_plugin.compat.errors import EXIT_USER_ERROR, UserError

EXIT_INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT
Commands = Mapping[str, Union[str, Mapping[str, str]]]

# name -> its module, or, of a group, the names and modules in it
SUBCOMMANDS: Commands = {
    "prepare": "metaseq_plugin.data.prepare.command",
    "data": {
        "inspect": "metaseq_plugin.data.tools.inspect.command",
        "clean": "metaseq_plugin.data.tools.clean.command",
    },
    "convert": "metaseq_plugin.formats.convert",
    "reshard": "metaseq_plugin.checkpoint.reshard",
}
GROUPS = {"data": "look at a corpus, or clean it"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metaseq", description="OPT language models on fairseq.")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    subparsers.add_parser("doctor", help="say whether this environment can train, and what to mend")
    for name, module in SUBCOMMANDS.items():
        if isinstance(module, str):
            _add_subcommand(subparsers, name, module, name)
            continue
        group = subparsers.add_parser(name, help=GROUPS[name], description=GROUPS[name])
        members = group.add_subparsers(dest="member", required=True, metavar="SUBCOMMAND")
        for member, member_module in module.items():
            _add_subcommand(members, member, member_module, f"{name} {member}")
    return parser


def _add_subcommand(subparsers: Any, name: str, module_name: str, full_name: str) -> None:
    module = import_module(module_name)
    doc = module.__doc__ or ""
    subparser = subparsers.add_parser(
        name,
        help=doc.split("\n", 1)[0],
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(subparser)
    subparser.set_defaults(run=module.run, full_name=full_name)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one subcommand; the exit status: 0, 2 after one sentence on what to set, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"metaseq {args.full_name}: error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_USER_ERROR
    except KeyboardInterrupt:  # the subcommands leave nothing half-written
        print(f"metaseq {args.full_name}: interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    return 0
