"""The one exception for mistakes that a user, a file or a request can make.

Its message follows one grammar: "`--option` must ⟨rule⟩, but is ⟨value⟩. ⟨What to set⟩." Commands
print that sentence without a traceback and exit with ``EXIT_USER_ERROR``; anything else that is
raised is a bug of ours, keeps its traceback and exits with 1.

A message often quotes a file: a path, a version, a tensor's name. What a terminal would obey instead of
showing it, such as an escape sequence, is spelled out here, once for all messages (``printable``), and
what is too long to be read is cut.

It lives in the lowest layer because every other one raises it.
"""

EXIT_USER_ERROR = 2
MAX_CHARACTERS = 2000


class UserError(ValueError):
    """A mistake in what was asked for; the message says what to set instead."""

    def __init__(self, message: object) -> None:
        text = printable(str(message))
        if len(text) > MAX_CHARACTERS:
            half = MAX_CHARACTERS // 2  # the end says what to do
            text = f"{text[:half]} … {text[-half:]}"
        super().__init__(text)


def printable(text: str) -> str:
    """``text`` on one line, with control characters and the like as Python's escapes (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
