"""A value of a sweep file together with the place where it stands, so that a mistake is said with its line.

    top = read_yaml(path)                      or from_plain(value, "sweep.py"), of a program's
    top.fields("grid", "options", …)           its entries by key; another key is refused
    top.at("grid").at("lr").items()            the values of a list, each with its own place

Whatever is not as it should be is refused through ``Marked.refused``: "PLACE: `grid.lr` must RULE, but is …".
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any, Collection, Mapping, Optional, Sequence, Union

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.spec import Value

MAX_DEPTH = 20
MAX_VALUES = 200_000  # what aliases unfold to counts too
MAX_CHARACTERS = 4096  # of one value
LONGEST_SHOWN = 60

Content = Union[Value, Sequence["Marked"], Mapping[str, "Marked"]]


class SweepError(UserError):
    """A mistake in a sweep file, whose sentences begin with the place."""


@dataclass(frozen=True)
class Marked:
    """A value and where it stands.

    Attributes:
        content: plain, or a list or dict of further ones.
        place: the file and, of YAML, the line: "sweep.yaml, line 7".
        key: the keys that lead to it: "grid.lr"; none of the whole file.
    """

    content: Content
    place: str
    key: str = ""

    def refused(self, rule: str, remedy: str, shown: Optional[str] = None) -> SweepError:
        """The error to raise: the value must ``rule``; ``remedy`` says what to write."""
        name = f"`{self.key}`" if self.key else "the file"
        return SweepError(
            f"{self.place}: {name} must {rule}, but is {shown or self.shown}. {remedy}"
        )

    @property
    def shown(self) -> str:
        """The value in a few words."""
        if isinstance(self.content, Mapping):
            return "a mapping of keys" if self.content else "empty"
        if isinstance(self.content, Sequence) and not isinstance(self.content, str):
            return "a list" if self.content else "an empty list"
        text = "empty" if self.content is None else str(self.content)
        if isinstance(self.content, bool):
            text = text.lower()
        return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"

    def fields(self, *known: str) -> Mapping[str, "Marked"]:
        """The entries by key.

        Args:
            known: the keys that there may be; without any, all keys.

        Raises:
            SweepError: no mapping, or an unknown key, with the key that it resembles.
        """
        if not isinstance(self.content, Mapping):
            raise self.refused("hold keys with values", "Write `key: value` lines.")
        for key, entry in self.content.items():
            if known and key not in known:
                raise entry.refused("be a known key", remedy_for(key, known), "unknown")
        return self.content

    def items(self) -> Sequence["Marked"]:
        """The values of a list that holds some.

        Raises:
            SweepError: no list, or an empty one.
        """
        if isinstance(self.content, (str, Mapping)) or not isinstance(self.content, Sequence):
            shown = "VALUE" if isinstance(self.content, Mapping) else self.shown
            raise self.refused("be a list of values", f"Write `[{shown}]`.")
        if not self.content:
            raise self.refused("hold at least one value", "Leave the key out, or give it values.")
        return self.content

    def plain(self) -> Value:
        """The one value: text, a number, true, false, or null.

        Raises:
            SweepError: a list or a mapping.
        """
        if isinstance(self.content, (str, int, float)) or self.content is None:
            return self.content
        raise self.refused("be one value", 'Write text in quotes, as in "(0.9, 0.95)".')

    def text(self) -> str:
        """The one value, which is text that is not empty."""
        if not isinstance(self.content, str) or not self.content:
            raise self.refused("be text", f'Write "{self.key}: TEXT", numbers in quotes.')
        return self.content

    def whole(self, least: int) -> int:
        """The one value, a whole number of at least ``least``."""
        value = self.content
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refused(f"be a whole number of at least {least}", f"Write {max(least, 1)}.")
        return value

    def number(self) -> float:
        """The one value, a number."""
        value = self.content
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused("be a number", "Write it without quotes, as 0.1 or 1e-4.")
        return float(value)

    def one_of(self, choices: Sequence[str]) -> str:
        """The one value, which is one of ``choices``."""
        if self.content not in choices:
            text = str(self.content)
            raise self.refused(f"be one of {', '.join(choices)}", remedy_for(text, choices))
        return str(self.content)


def remedy_for(key: str, known: Collection[str]) -> str:
    """What to write in the place of an unknown ``key``."""
    near = difflib.get_close_matches(key, known, 1)
    return f"Write `{near[0]}`." if near else f"Set one of {', '.join(known)}."


def from_plain(value: Any, place: str, key: str = "", depth: int = 0) -> Marked:
    """The values of a Python program: dicts with text as keys, lists, tuples and plain values.

    Raises:
        SweepError: anything else, also a number that is not finite.
    """
    inner = f"{key}." if key else ""
    if depth > MAX_DEPTH:
        raise Marked("too deep", place, key).refused(
            f"be nested at most {MAX_DEPTH} times", "Make it flatter."
        )
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise Marked(f"{name!r}", place, key).refused("have text as keys", "Set text.")
        return Marked(
            {name: from_plain(entry, place, f"{inner}{name}", depth + 1) for name, entry in value.items()},
            place, key,
        )  # fmt: skip
    if isinstance(value, (list, tuple)):
        return Marked([from_plain(entry, place, key, depth + 1) for entry in value], place, key)
    if value is not None and type(value) not in (str, int, float, bool):
        raise Marked(f"of type {type(value).__name__}", place, key).refused(
            "be text, a number, True, False, None, a list or a dict", "Convert it."
        )
    return checked(Marked(value, place, key))


def checked(marked: Marked) -> Marked:
    """``marked``, a plain value, unless it is one that no option can be given."""
    value = marked.content
    if isinstance(value, float) and not math.isfinite(value):
        raise marked.refused("be a finite number", "Write another.")
    if isinstance(value, str) and (len(value) > MAX_CHARACTERS or "\0" in value):
        raise marked.refused(f"have at most {MAX_CHARACTERS} characters, none of them zero bytes", "Write less.")  # fmt: skip
    return marked
