"""The one exception for mistakes that a user, a file or a request can make.

Its message follows one grammar: "`--option` must ⟨rule⟩, but is ⟨value⟩. ⟨What to set⟩." Commands
print that sentence without a traceback and exit with ``EXIT_USER_ERROR``; anything else that is
raised is a bug of ours, keeps its traceback and exits with 1.

It lives in the lowest layer because every other one raises it.
"""

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """A mistake in what was asked for; the message says what to set instead."""
