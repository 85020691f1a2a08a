"""What the plugin adds to ``fairseq-train``, a screen of it: by task, arch, criterion, optimizer and tokenizer.

    metaseq help train
    metaseq help ledger     those of the ledger, which every task of ours has

Texts and defaults are those of the registered dataclasses, as fairseq's own parser makes options of them.
The steps: (1) ours are found in fairseq's registries; (2) fairseq's ``gen_parser_from_dataclass`` fills a
group for each; (3) what a group above shows with the same text and default is not shown again.
"""

import argparse
import inspect
import shutil
from typing import Any, Iterator, List, Mapping, Set, Tuple

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_INV_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

from metaseq_plugin.compat.whole_help import HelpWithDefaults
from metaseq_plugin.ledger.options import LedgerOptions

PACKAGE = __name__.partition(".")[0]
LEDGER = "ledger"
METAVARS, TEXT = {int: "N", float: "X"}, "S"
HELP_COLUMN = 36
INTRODUCTION = (
    "What --user-dir metaseq_plugin adds to fairseq-train (N: a whole number, X: any, S: text). A whole\n"
    "command with --help at its end shows fairseq's options too, and the defaults of its --arch. Those of\n"
    "the ledger, in which a run keeps what it did, and of what watches it: `metaseq help ledger`."
)


class Options(argparse.ArgumentParser):
    """A group of the page: the options of one component, in a parser of their own.

    Args:
        shown: (name, text, default) of what the groups above show; more is added.
    """

    def __init__(self, title: str, shown: Set[Tuple[Any, ...]]) -> None:
        super().__init__(usage=argparse.SUPPRESS, add_help=False, formatter_class=formatter)
        self.group, self.shown = self.add_argument_group(title), shown

    def add_argument(self, *names: str, **arguments: Any) -> Any:
        said = (*names, arguments["help"], arguments.get("default"))
        if arguments["help"] is not None and said not in self.shown:
            self.shown.add(said)
            if names[0].startswith("-") and "action" not in arguments:
                arguments["metavar"] = METAVARS.get(arguments.get("type"), TEXT)  # type: ignore[arg-type]
            self.group.add_argument(*names, **arguments)


def formatter(prog: str) -> argparse.HelpFormatter:
    width = shutil.get_terminal_size().columns
    return HelpWithDefaults(prog, max_help_position=HELP_COLUMN, width=width)


def registered_configs() -> Iterator[Tuple[str, Any]]:
    """(title, dataclass) of every component of ours that has options, in the order of a command line."""
    kinds: List[Tuple[str, Mapping[str, Any]]] = [
        ("task", TASK_DATACLASS_REGISTRY),
        ("arch", MODEL_DATACLASS_REGISTRY),
        *((name, REGISTRIES[name]["dataclass_registry"]) for name in ("criterion", "optimizer", "bpe")),
    ]  # fmt: skip
    for kind, registry in kinds:
        for name, config in registry.items():
            if inspect.isclass(config) and config.__module__.startswith(f"{PACKAGE}."):
                names = ARCH_MODEL_INV_REGISTRY[name] if kind == "arch" else [name]
                yield f"--{kind} {' … '.join(names[:1] + names[1:][-1:])}", config


def ledger_page() -> str:
    """The ledger's options, as wide as the terminal."""
    options = Options("every --task opt_…", set())
    gen_parser_from_dataclass(options, LedgerOptions())
    return options.format_help().lstrip("\n")


def page() -> str:
    """All groups but the ledger's, as wide as the terminal."""
    ledger = Options("", set())
    gen_parser_from_dataclass(ledger, LedgerOptions())
    shown, groups = ledger.shown, []
    for title, config in registered_configs():
        options = Options(title, shown)
        gen_parser_from_dataclass(options, config())
        groups.append(options.format_help())
    return "".join([f"{INTRODUCTION}\n", *groups])


def show(of: str) -> None:
    """Print the page of "train" or "ledger"."""
    print(ledger_page() if of == LEDGER else page(), end="")  # noqa: T201
