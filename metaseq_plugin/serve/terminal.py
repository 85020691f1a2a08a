"""Text on the standard output: at once, and such that a terminal shows it and obeys nothing of it."""

import sys
import unicodedata
from typing import Any


def use_any_character(stream: Any) -> None:
    """Spell characters that the stream's encoding lacks as escapes, instead of failing."""
    if hasattr(stream, "reconfigure"):  # not a stand-in for a stream
        stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write ``text`` at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def escaped(text: str) -> str:
    """``text`` with control characters, which a terminal would obey, as escapes; not line ends and tabs."""
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) == "Cc" and c not in "\n\t"
        else c
        for c in text
    )
