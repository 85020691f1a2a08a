"""A prompt of ``fairseq-interactive`` is its whole line, for tasks of the host's.

fairseq strips white space off both ends, and takes every kind of line end for one: its own tokenisation
splits at white space anyway. For a tokenizer that knows spaces, ``    return x`` is another text than
``return x``. A line ends at its newline, and nothing else of it is lost.
"""

import fileinput
from contextvars import ContextVar
from functools import wraps
from typing import Any, Callable, Iterator, List

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.host import registered

_is_whole: ContextVar[bool] = ContextVar("is_whole", default=False)


def whole_lines(source: str) -> Iterator[str]:
    """The lines of a file, or of standard input for ``-``, without their newlines.

    Raises:
        UserError: it cannot be read, or a line is not UTF-8.
    """
    try:
        with fileinput.input(files=[source], mode="rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield text_of(line.removesuffix(b"\n"), number)
    except OSError as error:
        raise UserError(
            f"`--input` must be a file that can be read, but is {source} ({error.strerror}). "
            "Set one, or - for standard input."
        ) from error


def text_of(line: bytes, number: int) -> str:
    """The text of line ``number``."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"A prompt must be UTF-8 text, but line {number} is not (byte {error.start + 1} of it). "
            "Save the prompts as UTF-8."
        ) from error


def reading_whole_lines(read: Callable[..., Any]) -> Callable[..., Any]:
    """``buffered_read``, which gives ``buffer_size`` prompts at a time."""

    @wraps(read)
    def wrapper(source: str, buffer_size: int) -> Iterator[List[str]]:
        if not _is_whole.get():
            yield from read(source, buffer_size)
            return
        prompts: List[str] = []
        for line in whole_lines(source):
            prompts.append(line)
            if len(prompts) >= buffer_size:
                yield prompts
                prompts = []
        if prompts:
            yield prompts

    return wrapper


def for_tasks_of_the_host(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main`` of the command, which knows the task; ``buffered_read`` does not."""

    @wraps(main)
    def wrapper(cfg: Any, *more: Any, **named: Any) -> Any:
        host = registered()
        token = _is_whole.set(host is not None and host.owns_task(cfg.task._name))
        try:
            return main(cfg, *more, **named)
        finally:
            _is_whole.reset(token)

    return wrapper
