"""Whether options are fairseq-train's, before anything is launched: unknown ones, and values of another kind, are refused.

    check_options({"task": "opt_language_modeling", "arch": "opt_125m", "bathc-size": 8})
        `--bathc-size` must be an option of fairseq-train …, but is unknown. Did you mean --batch-size?
    read_words(["--lr", "1e-4", "--bf16"], beside={})     # {"lr": "1e-4", "bf16": True}

The options are those of fairseq's own parser, which another process reads (``option_table.py``), because that has to
import torch. The table is kept in the user's cache folder, under a name that changes with fairseq and our sources.
"""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import USER_DIR, Value

PACKAGE = Path(__file__).resolve().parents[1]
SECONDS_TO_READ = 300
# What a launch sets itself.
RESERVED = {"user-dir": f"It is {USER_DIR}", "save-dir": "It is the run folder"}

Row = Mapping[str, Any]  # "kind", and "choices" where there are


class Table(NamedTuple):
    """The options of ``fairseq-train``; the fields are those of ``option_table.py``."""

    common: Mapping[str, Row]
    parts: Mapping[str, Mapping[str, Mapping[str, Row]]]
    defaults: Mapping[str, Optional[str]]

    def chosen(self, options: Mapping[str, Value]) -> dict[str, str]:
        """Kind of component -> the one that ``options`` choose; only those that there are."""
        named = {kind: options.get(kind, default) for kind, default in self.defaults.items()}
        return {kind: str(name) for kind, name in named.items() if str(name) in self.parts[kind]}

    def known(self, options: Mapping[str, Value]) -> dict[str, Row]:
        """Every option beside ``options``: those of what they choose come on top of those of all commands."""
        known = dict(self.common)
        for kind, name in self.chosen(options).items():
            known.update({**self.parts[kind][name], **known})
        return known

    def owners(self, option: str) -> Iterator[str]:
        """The components that have ``option``, such as "--task opt_streaming_language_modeling"; ours first."""
        for kind, members in self.parts.items():
            for name in sorted(members, key=lambda name: (not name.startswith("opt"), name)):
                if option in members[name]:
                    yield f"--{kind} {name}"


def cache_file() -> Path:
    """Where the table is kept."""
    key = hashlib.sha256(f"{version('fairseq')} {sys.version}".encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        found = path.stat()
        key.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "metaseq_plugin" / f"options-{key.hexdigest()[:16]}.json"


def read_table() -> dict[str, Any]:
    """The table as another process prints it."""
    ended = subprocess.run(
        [sys.executable, "-m", "metaseq_plugin.launch.option_table"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS_TO_READ,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])},
    )
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(
            f"fairseq must show its options, but does not ({reason}). Run `metaseq doctor`."
        )
    table: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return table


@lru_cache(maxsize=1)
def option_table() -> Table:
    """The table, from the cache where it is there."""
    path = cache_file()
    with suppress(OSError, ValueError, TypeError):  # not there, torn, or of another version
        return Table(**json.loads(path.read_text("utf-8")))
    table = read_table()
    with suppress(OSError):  # a cache folder that cannot be written costs the time again
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(table), "utf-8")
        unfinished.replace(path)
    return Table(**table)


def check_options(options: Mapping[str, Value]) -> None:
    """Refuse options that ``fairseq-train`` does not know beside these, or of another kind.

    Args:
        options: names without dashes in front -> values.

    Raises:
        UserError: a sentence for each of them.
    """
    table = option_table()
    known, chosen = table.known(options), table.chosen(options)
    problems = []
    for name, value in options.items():
        if name in RESERVED:
            problems.append(f"`--{name}` must be left out here, but is set. {RESERVED[name]}.")
        elif name not in known:
            problems.append(unknown(name, table, known, chosen))
        elif value is not None:
            problems += value_problems(name, value, known[name])
    if problems:
        raise UserError(*problems)


def unknown(name: str, table: Table, known: Mapping[str, Row], chosen: Mapping[str, str]) -> str:
    """The sentence for an option that is not ``known``."""
    owner = next(table.owners(name), None)
    near = get_close_matches(name.replace("_", "-"), known, 1)
    if owner is not None:
        advice = f"It comes with {owner}."
    elif near:
        advice = f"Did you mean --{near[0]}?"
    else:
        advice = "`metaseq help train` lists the plugin's."
    beside = ", ".join(f"--{kind} {chosen[kind]}" for kind in ("task", "arch") if kind in chosen)
    return f"`--{name}` must be an option of fairseq-train with {beside}, but is unknown. {advice}"


def value_problems(name: str, value: Value, row: Row) -> Iterator[str]:
    """What is wrong with the ``value`` of a known option."""
    kind = row["kind"]
    is_flag = isinstance(value, bool)
    if is_flag and kind not in ("flag", "either"):
        if value:
            yield f"`--{name}` must have a value, but has none. Set one."
    elif not is_flag and kind == "flag":
        yield f"`--{name}` must have no value, but has {value}. Set it, or leave it out."
    elif not is_flag and "choices" in row and str(value) not in row["choices"]:
        near = get_close_matches(str(value), row["choices"], 3)
        few = row["choices"] if len(row["choices"]) < 10 else near
        advice = f"Set {' or '.join(few)}." if few else "See fairseq-train --help."
        yield f"`--{name}` must be one of its registered names, but is {value}. {advice}"
    elif not is_flag and kind in ("int", "float"):
        try:
            int(str(value)) if kind == "int" else float(str(value))
        except ValueError:
            what = "a whole number" if kind == "int" else "a number"
            yield f"`--{name}` must be {what}, but is {value}. Set one."


def read_words(words: Sequence[str], beside: Mapping[str, Value]) -> dict[str, Value]:
    """The options that are typed as on a command line of ``fairseq-train``; the last one of a name counts.

    Args:
        beside: other options of the command, whose task, arch and so on say what there is to know.

    Raises:
        UserError: one that is unknown, a value that is missing, or a word that belongs to none.
    """
    table = option_table()
    typed = dict(
        pair(word, following)
        for word, following in zip(words, [*words[1:], ""])
        if word[:2] == "--"
    )
    named = {kind: value for kind, value in typed.items() if kind in table.parts}
    known = table.known({**beside, **named})
    chosen = table.chosen({**beside, **named})
    found: dict[str, Value] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UserError(
                f"What follows must be options of fairseq-train, by their long names, but {word} is none. "
                "Begin them with --."
            )
        if name not in known:
            raise UserError(unknown(name, table, known, chosen))
        kind = known[name]["kind"]
        if equals:
            found[name] = value
        elif kind == "flag" or (kind == "either" and (not left or left[0].startswith("--"))):
            found[name] = True
        elif not left or left[0].removeprefix("--") in known:
            raise UserError(f"`--{name}` must have a value, but has none. Set one.")
        else:
            found[name] = left.pop(0)
    return found


def pair(word: str, following: str) -> tuple[str, Value]:
    """Name and value of ``--name=value``, or of ``--name`` and the word behind it."""
    name, equals, value = word.removeprefix("--").partition("=")
    return name, value if equals else following
