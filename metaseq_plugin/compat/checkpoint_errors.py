"""Name the file and the option when a checkpoint or the folder for them is of no use.

fairseq lets torch's and the system's exceptions through, and where ``--restore-file`` names nothing
it trains from scratch without a word (metaseq did too, its issue 602).
"""

import pickle
import zipfile
from functools import wraps
from pathlib import Path
from typing import Any, Callable, Union

from metaseq_plugin.compat.errors import UserError

DEFAULT_RESTORE_FILE = "checkpoint_last.pt"
UNREADABLE = (EOFError, KeyError, OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile)


def unreadable(path: Union[str, Path], error: Exception) -> UserError:
    """The sentence for a file that is no whole checkpoint."""
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    return UserError(
        f"{path} must be a whole checkpoint, but cannot be read as one ({size:,} bytes; "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'empty'}). "
        "Use another checkpoint, or copy this one again."
    )


def check_restore_file(cfg: Any, suffix: str) -> None:
    """Refuse a ``--restore-file`` that names nothing, with the ``suffix`` that a rank puts before .pt."""
    path = Path(cfg.restore_file.replace(".pt", f"{suffix}.pt"))
    if cfg.restore_file != DEFAULT_RESTORE_FILE and not path.is_file():
        raise UserError(
            f"`--restore-file` must name a checkpoint, but {path} does not exist. "
            "Set one that does, or leave it out to start anew."
        )


def requiring_writable(verify: Callable[[str], None]) -> Callable[[str], None]:
    """``verify_checkpoint_directory``, with a sentence instead of an ``OSError``."""

    @wraps(verify)
    def wrapper(save_dir: str) -> None:
        try:
            verify(save_dir)
        except OSError as error:
            raise UserError(
                f"`--save-dir` must be a folder that can be written, but {save_dir} is not "
                f"({error.strerror}). Set another."
            ) from error

    return wrapper
