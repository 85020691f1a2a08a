"""A sweep that a Python file makes: ``def sweep()`` returns what a YAML file would hold, or a list of such dicts.

The file is the user's own program. It runs, as the user, because it was named on the command line.
"""

import runpy
import traceback
from pathlib import Path

from metaseq_plugin.launch.sweep.marked import Marked, SweepError, from_plain

FUNCTION = "sweep"


def read_program(path: Path) -> Marked:
    """What ``sweep()`` of the file returns.

    Raises:
        SweepError: no such file or function, or the program fails: with its line.
    """
    if not path.is_file():
        raise SweepError(f"{path}: the file must be readable, but is not there. Name another.")
    try:
        function = runpy.run_path(str(path)).get(FUNCTION)
        if not callable(function):
            raise SweepError(f"{path}: the file must define `def {FUNCTION}():`, but does not. Write it.")  # fmt: skip
        value = function()
    except SweepError:
        raise
    except Exception as error:
        raise SweepError(f"{where(path, error)}: the program must run, but ends with {said(error)}. Mend it.") from error  # fmt: skip
    return from_plain(value, str(path))


def where(path: Path, error: Exception) -> str:
    """The last line of the file itself on the way to ``error``."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def said(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
