"""The file of a command's `--output`, which a killed command leaves and the same command goes on with.

    with opened_output(path) as stream:
        ...                                # what it holds is read, and written on

One process writes it; its lock says so to others.
"""

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage.locks import Lock, is_at, opened, try_lock


def unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"`--output` must be a file that can be written, but {path} is not ({error.strerror}). "
        "Set another, or make room; the same command then goes on."
    )


@contextmanager
def opened_output(path: Path) -> Iterator[BinaryIO]:
    """The file at ``path``, unbuffered, for this process alone; one that is still empty at the end is gone again.

    Raises:
        UserError: it cannot be written, or another process writes it.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(opened(path))
        except OSError as error:
            raise unwritable(path, error) from error
        if try_lock(stream) is Lock.held:
            raise UserError(
                f"`--output` must be written by one process, but another writes {path}. "
                "Wait for it, or set another file."
            )
        # Whoever had it may have ended between the two, and put another in its place.
        if not is_at(stream, path):
            raise UserError(
                f"`--output` must be written by one process, but another has just replaced {path}. "
                "Give the same command again."
            )
        try:
            yield stream
        finally:
            if stream.seek(0, os.SEEK_END) == 0:
                path.unlink(missing_ok=True)
