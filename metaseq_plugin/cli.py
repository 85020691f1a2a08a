"""The ``metaseq`` command: one screen of subcommands, each a thin call into the package.

    metaseq prepare corpus.jsonl --destdir data
    metaseq data inspect data
    metaseq convert runs/quickstart/checkpoint_best.pt opt-hf --to hf
    metaseq help convert        the same as metaseq convert --help
    metaseq help train          the options that the plugin adds to fairseq-train; help ledger: those of the ledger

A subcommand, also one of a group such as ``data``, is a module with a docstring (its first line is the
help), ``add_arguments(parser)`` and ``run(args)``. The steps: (1) a parser is built from the docstrings,
which are read from the sources; (2) the subcommand that was chosen is imported, and with it torch and
fairseq (not those of ``LIGHT``), and adds its arguments; (3) it runs. ``metaseq doctor`` does not pass through here: it must work
when torch or fairseq cannot be imported (``metaseq_plugin.compat.commands.doctor``).
"""

import argparse
import ast
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Mapping, NoReturn, Optional, Sequence, Union

from metaseq_plugin.compat.errors import EXIT_LOST_RANK, EXIT_USER_ERROR, LostRank, UserError

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
    "generate": "metaseq_plugin.serve.prompt",
    "serve": "metaseq_plugin.serve.command",
    "launch": "metaseq_plugin.launch.command",
    "plan": "metaseq_plugin.launch.plan.command",
    "report": "metaseq_plugin.report.command",
    "watch": "metaseq_plugin.report.watch",
    "note": "metaseq_plugin.report.note",
    "carbon": "metaseq_plugin.ledger.carbon_command",
    "eval": "metaseq_plugin.evaluate.command",
    "card": "metaseq_plugin.evaluate.card.command",
}
# Words behind a subcommand that mean another one.
MEMBERS: Mapping[str, Mapping[str, str]] = {
    "launch": {
        "status": "metaseq_plugin.launch.folders.status",
        "stop": "metaseq_plugin.launch.folders.stop",
        "logs": "metaseq_plugin.launch.folders.logs",
    },
    "eval": {"calibrate": "metaseq_plugin.evaluate.toxicity.calibrate"},
}
# These answer at once: they need neither torch nor fairseq, which the package itself imports.
WITHOUT_PACKAGE = ("metaseq_plugin.launch.", "metaseq_plugin.ledger.", "metaseq_plugin.report.")
PACKAGE = "metaseq_plugin"
TRAINING_OPTIONS = "metaseq_plugin.launch.training_options"
GROUPS = {"data": "Look at a corpus, or clean it."}


class Subcommand(argparse.ArgumentParser):
    """The parser of one subcommand; it imports the module when it is chosen, not before.

    A module with TAKES_MORE gets what it does not know, and all behind ``--``, as ``args.more``.
    """

    module = ""  # none of a group, nor once it is imported
    members: Mapping[str, str] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args and args[0] in self.members:
            member = Subcommand(**described(self.members[args[0]]), prog=f"{self.prog} {args[0]}")
            member.module = self.members[args[0]]
            return member.parse_known_args(args[1:], namespace)
        if not self.module:
            return super().parse_known_args(args, namespace)
        if self.module.startswith(WITHOUT_PACKAGE):
            leave_out_package()
        module = import_module(self.module)
        self.module = ""
        module.add_arguments(self)
        self.set_defaults(run=module.run, full_name=self.prog)
        # Options may stand between PATH and PROMPT; this calls us again.
        if "TAKES_MORE" not in vars(module):
            return self.parse_known_intermixed_args(args, namespace)
        self.allow_abbrev = False  # what is short for an option of ours may be one of the others
        end = args.index("--") if "--" in args else len(args)
        namespace, more = self.parse_known_intermixed_args(args[:end], namespace)
        namespace.more = [*more, *args[end + 1 :]]
        return namespace, []


class Version(argparse.Action):
    """Print the installed version; to look it up takes as long as all the rest of ``--help``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print("metaseq-plugin", version("metaseq-plugin"))  # noqa: T201
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metaseq", description="OPT language models on fairseq.")
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    subparsers = _add_subparsers(parser)
    subparsers.add_parser(
        "doctor", help="Say whether this environment can train, and what to mend."
    )
    subparsers.add_parser("help", help="Show this, or a subcommand's; `help train`: our options.")
    for name, module in SUBCOMMANDS.items():
        if isinstance(module, str):
            _add_subcommand(subparsers, name, module)
            continue
        group = subparsers.add_parser(name, help=GROUPS[name], description=GROUPS[name])
        members = _add_subparsers(group)
        for member, member_module in module.items():
            _add_subcommand(members, member, member_module)
    return parser


def _add_subparsers(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(required=True, metavar="SUBCOMMAND", parser_class=Subcommand)


def _add_subcommand(subparsers: Any, name: str, module: str) -> None:
    texts = described(module)
    help_line = texts["description"].split("\n", 1)[0]
    subparser = subparsers.add_parser(name, help=help_line, **texts)
    subparser.module, subparser.members = module, MEMBERS.get(name, {})


def described(module: str) -> dict[str, Any]:
    """What a parser says of ``module``: its docstring, read from the source without running it."""
    file = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    doc = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return {"description": doc, "formatter_class": argparse.RawDescriptionHelpFormatter}


def leave_out_package() -> None:
    """Let rooms be imported without ``metaseq_plugin/__init__.py``, which registers everything with fairseq."""
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(Path(__file__).parent)]
        sys.modules[PACKAGE] = package


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one subcommand; the exit status: 0, or after one sentence 1 (a rank is lost), 2 (what to set), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["help", "train"], ["help", "ledger"]):
        import_module(TRAINING_OPTIONS).show(arguments[1])
        return 0
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        say_error(args.full_name, error)
        return EXIT_USER_ERROR
    except LostRank as error:
        say_error(args.full_name, error)
        leave_at_once(EXIT_LOST_RANK)
    except KeyboardInterrupt:  # the subcommands leave nothing half-written
        print(f"{args.full_name}: interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    return 0


def leave_at_once(status: int) -> NoReturn:
    """End without taking anything down: what is left of a group whose rank is gone may abort the process instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def say_error(command: str, error: Exception) -> None:
    """Print the sentence of ``error``; of several ranks that torchrun started, once."""

    def say(sentence: str) -> None:
        print(f"{command}: error: {sentence}", file=sys.stderr, flush=True)  # noqa: T201

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        say(str(error))
        return
    from metaseq_plugin.compat.last_words import say_once  # imports torch.distributed

    say_once(str(error), say)
