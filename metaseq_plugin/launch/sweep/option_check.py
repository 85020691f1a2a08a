"""The options of all runs against those of ``fairseq-train``: each name and value once, not once a run."""

import re
from typing import Iterable, Mapping

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.fairseq_options import check_options
from metaseq_plugin.launch.spec import Value
from metaseq_plugin.launch.sweep.sweep import Run

# What is chosen decides which further options there are.
CHOOSING = ("task", "arch", "criterion", "optimizer", "lr-scheduler", "bpe", "tokenizer")
ARCH = "opt"  # where the checkpoint says it: all of ours have the same options


def check_runs(runs: Iterable[Run], places: Mapping[str, str]) -> None:
    """Refuse an option that is unknown, or of another kind, with the place where it stands.

    Args:
        places: of the options that the file names.

    Raises:
        UserError: a sentence for each mistake of the first run that has one.
    """
    checked: dict[tuple[Value, ...], set[tuple[str, str]]] = {}
    for run in runs:
        options = {"arch": ARCH, **run.launch.spec.options}
        chosen = {name: options[name] for name in CHOOSING if name in options}
        seen = checked.setdefault(tuple(chosen.values()), set())
        new = {name: value for name, value in options.items() if (name, repr(value)) not in seen}
        if new:
            check_new({**chosen, **new}, places, run.point.place)
            seen.update((name, repr(value)) for name, value in new.items())


def check_new(options: Mapping[str, Value], places: Mapping[str, str], place: str) -> None:
    try:
        check_options(options)
    except UserError as error:
        raise UserError(*(f"{place_of(text, places, place)}: {text}" for text in error.sentences)) from None  # fmt: skip


def place_of(sentence: str, places: Mapping[str, str], place: str) -> str:
    """Where the option that ``sentence`` is about stands."""
    found = re.match(r"`--([^`]*)`", sentence)
    return places.get(found[1], place) if found else place
