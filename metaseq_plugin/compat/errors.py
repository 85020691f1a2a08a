"""The one exception for mistakes that a user, a file or a request can make.

Its message follows one grammar: "`--option` must ⟨rule⟩, but is ⟨value⟩. ⟨What to set⟩." Commands
print that sentence without a traceback and exit with ``EXIT_USER_ERROR``; anything else that is
raised is a bug of ours, keeps its traceback and exits with 1.

A message often quotes a file: a path, a version, a tensor's name. What a terminal would obey instead of
showing it, such as an escape sequence, is spelled out here, once for all messages (``printable``), and
what is too long to be read is cut.

It lives in the lowest layer because every other one raises it.
"""

from typing import Any

EXIT_USER_ERROR = 2
EXIT_LOST_RANK = 1
MAX_CHARACTERS = 2000


class UserError(ValueError):
    """One or more mistakes in what was asked for, a sentence each, on lines of their own.

    Each says what to set instead.
    """

    def __init__(self, *sentences: object) -> None:
        self.sentences = tuple(brief(printable(str(sentence))) for sentence in sentences)
        super().__init__("\n".join(self.sentences))

    def __reduce__(self) -> Any:
        return type(self), self.sentences, vars(self)


class LostRank(RuntimeError):
    """Another rank of this run is gone, and nothing can go on without it; says which, where it is known."""


def brief(text: str, longest: int = MAX_CHARACTERS) -> str:
    """``text``, its middle left out where nobody would read it; the end says what to do."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def printable(text: str) -> str:
    """``text`` on one line, with control characters and the like as Python's escapes (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
