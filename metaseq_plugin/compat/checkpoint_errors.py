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


def naming_the_file(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint_to_cpu``, refusing a file that is no whole checkpoint."""

    @wraps(load)
    def wrapper(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(path, *args, **kwargs)
        except UNREADABLE as error:
            raise unreadable(path, error) from error

    return wrapper


def requiring_restore_file(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint``, refusing a ``--restore-file`` that names nothing."""

    @wraps(load)
    def wrapper(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        name = cfg.restore_file
        if name != DEFAULT_RESTORE_FILE:
            path = Path(name.replace(".pt", f"{trainer.checkpoint_suffix}.pt"))
            if not path.is_file():
                raise UserError(
                    f"`--restore-file` must name a checkpoint, but {path} does not exist. "
                    "Set one that does, or leave it out to start anew."
                )
        return load(cfg, trainer, **kwargs)

    return wrapper


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


def require_writable_folder(checkpoint_utils: Any) -> None:
    verify = checkpoint_utils.verify_checkpoint_directory
    checkpoint_utils.verify_checkpoint_directory = requiring_writable(verify)
