"""``torchrun`` says in one line which rank of a command of ours ended; the rank itself has said why.

Its own report is a traceback of torchrun, a table of exit statuses and the advice to decorate main();
where Ctrl-C or SIGTERM ends torchrun itself, a traceback too.
Every other program that torchrun starts keeps it.
"""

import logging
import re
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any, Callable

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

COMMANDS = r"fairseq-.*|metaseq"
AFTERMATH = (1, -signal.SIGTERM)  # what ranks end with because another one ended


def report(command: str, failures: dict[int, ProcessFailure]) -> tuple[str, int]:
    """The line, and torchrun's exit status: the rank's own, or 1 where a signal ended it."""
    causes = {rank: end for rank, end in failures.items() if end.exitcode not in AFTERMATH}
    rank, failure = min((causes or failures).items(), key=lambda item: (item[1].timestamp, item[0]))
    if failure.exitcode < 0:
        how = f"was ended by {signal.Signals(-failure.exitcode).name}"
    else:
        how = f"ended with exit status {failure.exitcode}"
    line = f"torchrun: {command} failed: rank {rank} {how}; see the output above."
    return line, max(1, failure.exitcode)


def in_one_line(main: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.distributed.run.main``, brief about the failures of these commands."""

    @wraps(main)
    def wrapper(args: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        names = (Path(word).name for word in words)
        command = next((name for name in names if re.fullmatch(COMMANDS, name)), None)
        if command is None:
            return main(args)
        logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel("CRITICAL")
        logging.getLogger("torch.distributed.elastic.agent.server.api").setLevel("ERROR")
        try:
            return main(args)
        except ChildFailedError as error:
            line, status = report(command, error.failures)
            print(line, file=sys.stderr)  # noqa: T201
            raise SystemExit(status) from None
        except SignalException as end:
            name = signal.Signals(end.sigval).name
            print(f"torchrun: {command} was ended by {name}.", file=sys.stderr)  # noqa: T201
            raise SystemExit(128 + end.sigval) from None

    return wrapper
