"""Name the file and the option when a checkpoint or the folder for them is of no use.

fairseq lets torch's and the system's exceptions through, and where ``--restore-file`` names nothing
it trains from scratch without a word (metaseq did too, its issue 602). It also makes ``--save-dir`` at
once; a run of ours only looks whether that is possible, and whoever writes first makes it.
"""

import os
import pickle
import struct
import zipfile
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, Callable, Optional, Union

from omegaconf.errors import OmegaConfBaseException

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.parallel_doors import host_of_rank

DEFAULT_RESTORE_FILE = "checkpoint_last.pt"
# What reading a file raises that holds something else than is read: torch goes far into it, and fairseq
# and omegaconf make settings of what they find. A UserError is among them, and to be let through first.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    OmegaConfBaseException,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
# What torch says of a refused pickle is advice to read it all the same.
REFUSED = "its pickle asks for what plain data never does"


def unreadable(path: Union[str, Path], error: Exception) -> UserError:
    """The sentence for a file that is no whole checkpoint."""
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    said = str(error).splitlines()[0] if str(error) else "empty"
    is_advice = isinstance(error, pickle.UnpicklingError) and "eights only" in said
    return UserError(
        f"{path} must be a whole checkpoint, but cannot be read as one ({size:,} bytes; "
        f"{REFUSED if is_advice else f'{type(error).__name__}: {said}'}). "
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


def check_writable(save_dir: Union[str, Path]) -> None:
    """Refuse a ``--save-dir`` that cannot be made or written; nothing is made, followed or emptied."""
    folder = Path(save_dir).absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise unwritable(save_dir, f"{nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise unwritable(save_dir, f"{nearest} does not permit it")


def unwritable(save_dir: Union[str, Path], reason: Optional[str]) -> UserError:
    """The sentence for a ``--save-dir`` that is of no use."""
    return UserError(
        f"`--save-dir` must be a folder that can be written, but {save_dir} is not ({reason}). "
        "Set another."
    )


_looks_only: ContextVar[bool] = ContextVar("looks_only", default=False)


def looking_only(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main``, which makes no folder for a model of ours before something is written into it."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        if host_of_rank(cfg) is None:
            return main(cfg)
        if not cfg.checkpoint.no_save and cfg.distributed_training.distributed_rank == 0:
            check_writable(cfg.checkpoint.save_dir)
        before = _looks_only.set(True)
        try:
            return main(cfg)
        finally:
            _looks_only.reset(before)

    return wrapper


def requiring_writable(verify: Callable[[str], None]) -> Callable[[str], None]:
    """``verify_checkpoint_directory``, with a sentence instead of an ``OSError``.

    fairseq makes the folder and, for a moment, a file ``dummy`` in it; one that is there already, or that
    a link of this name leads to, would lose its content.
    """

    @wraps(verify)
    def wrapper(save_dir: str) -> None:
        if _looks_only.get():
            return
        check_writable(save_dir)
        if os.path.lexists(Path(save_dir) / "dummy"):
            return
        try:
            verify(save_dir)
        except OSError as error:
            raise unwritable(save_dir, error.strerror) from error

    return wrapper
