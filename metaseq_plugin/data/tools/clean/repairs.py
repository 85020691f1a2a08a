"""What is mended in a text before anything else is asked of it.

Three kinds, in this order; a text that was mended is not changed again:

characters     Control characters, byte order marks and zero-width spaces go. Joiners stay: scripts need them.
backslashes    Text that went through JSON or a shell several times has its escapes escaped, and each
               pass about doubles the run of backslashes: OPT's own notes name this as a fault of its corpus. A
               run of more than MAX_BACKSLASHES becomes what the last one stands for, ``\\n`` a new line. Shorter
               ones are left: source code and LaTeX have them.
white space    One kind of line end and of blank; no blanks at the ends of lines; at most one empty line; a
               gap of more than MAX_GAP blanks inside a line becomes one. Indentation stays.
"""

import re
from functools import partial
from typing import Callable, Match, NamedTuple

MAX_BACKSLASHES = 3
MAX_GAP = 64  # blanks: aligned columns and comments have fewer

# A letter n, r or t with more letters behind it may begin a word, or a command of LaTeX's.
DEBRIS = re.compile(
    r"\\{%d,}(?:(?P<line>[nr](?![a-z]))|(?P<tab>t(?![a-z]))|u(?P<code>[0-9a-fA-F]{4})|(?P<mark>[\"'/]))?"
    % (MAX_BACKSLASHES + 1)
)
LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\ufeff\ufffe\uffff]")
GAPS = re.compile(r"(?<=[^ \t\n])[ \t]{%d,}(?=[^ \t\n])" % (MAX_GAP + 1))
# Only from the first blank on: else a long indentation is tried anew from each of its blanks.
TRAILING = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
EMPTY_LINES = re.compile(r"\n{3,}")


class Repaired(NamedTuple):
    """A text and which kinds of repair changed it."""

    text: str
    kinds: tuple[str, ...]


def _meaning(debris: Match[str]) -> str:
    if debris["line"]:
        return "\n"
    if debris["tab"]:
        return "\t"
    if debris["mark"]:
        return debris["mark"]
    if debris["code"]:
        character = chr(int(debris["code"], 16))
        if character > "\x7f" and (character.isprintable() or character.isspace()):
            return character
        return "\\" + debris[0].lstrip("\\")  # half of a pair, or what would be mended again
    return "\\"


def mend_white_space(text: str) -> str:
    text = BLANKS.sub(" ", LINE_ENDS.sub("\n", text))
    text = TRAILING.sub("", GAPS.sub(" ", text))
    return EMPTY_LINES.sub("\n\n", text).strip("\n")


WHITE_SPACE = "white space"
REPAIRS: dict[str, Callable[[str], str]] = {
    "characters": partial(UNSEEN.sub, ""),
    "backslashes": partial(DEBRIS.sub, _meaning),
    WHITE_SPACE: mend_white_space,
}


def repaired(text: str) -> Repaired:
    """``text`` with everything mended."""
    kinds = []
    for kind, mend in REPAIRS.items():
        mended = mend(text)
        if mended != text:
            kinds.append(kind)
            text = mended
    return Repaired(text, tuple(kinds))
