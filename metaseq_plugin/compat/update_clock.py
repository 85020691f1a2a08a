"""How far a training run is, in a small file that whoever started its ranks may read at any time.

    METASEQ_PROGRESS_FILE=/tmp/progress fairseq-train …

(1) Behind each update, the rank writes its number and the time into the file, which is mapped into memory: that
    costs microseconds. Of the ranks of a machine (LOCAL_RANK) the first writes: another that has no part in a save
    would say that it is over.
(2) While the run starts, validates, saves or changes epochs, the file says that this may take longer.
(3) SIGQUIT makes the rank print the stacks of all its threads, and go on.

Nothing of this is done where the variable is not set; the file must be there, of ``LAYOUT.size`` bytes.
"""

import faulthandler
import mmap
import os
import signal
import struct
import time
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Callable, Iterator, Optional

VARIABLE = "METASEQ_PROGRESS_FILE"
# update, seconds of the monotonic clock, whether busy otherwise, the update at which this start began
LAYOUT = struct.Struct("<qdqq")
NOT_BEGUN = -1  # in the place of the last, while the run has loaded nothing
STACKS = signal.SIGQUIT  # as JVMs and others do; batch systems do not send it


class UpdateClock:
    """The file, open for writing."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as stream:
            self._bytes = mmap.mmap(stream.fileno(), LAYOUT.size)
        self._update, self._begun = 0, NOT_BEGUN

    def begin(self, update: int) -> None:
        """An epoch begins; the first one where this start of the run does."""
        if self._begun == NOT_BEGUN:
            self._begun = update
        self.tell(update, True)

    def tell(self, update: int, is_busy: bool) -> None:
        """The run has made ``update`` updates, now."""
        self._update = update
        LAYOUT.pack_into(self._bytes, 0, update, time.monotonic(), is_busy, self._begun)

    def tells_busy(self) -> None:
        """The run does what is no update, until it tells of one."""
        self.tell(self._update, True)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within, the run does what is no update; behind it, it has as long for the next one as ever."""
        self.tells_busy()
        yield
        self.tell(self._update, False)


# That of the run that this process trains, if it tells.
_clock: ContextVar[Optional[UpdateClock]] = ContextVar("clock", default=None)


def tell_of_loading() -> None:
    """The run goes back to a checkpoint, which may take as long as its start."""
    clock = _clock.get()
    if clock is not None:
        clock.tells_busy()


def telling(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, which tells how far it is where it was asked to."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        path = os.environ.get(VARIABLE)
        if not path:
            return main(cfg)
        faulthandler.register(STACKS, file=2, all_threads=True)
        if int(os.environ.get("LOCAL_RANK") or 0):
            return main(cfg)
        token = _clock.set(UpdateClock(path))
        try:
            return main(cfg)
        finally:
            _clock.reset(token)

    return wrapper


def telling_the_beginning(train: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.train``, of one epoch: it begins where the checkpoint ended, and its data may take long."""

    @wraps(train)
    def wrapper(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is None:
            return train(cfg, trainer, *args, **kwargs)
        clock.begin(trainer.get_num_updates())
        result = train(cfg, trainer, *args, **kwargs)
        clock.tell(trainer.get_num_updates(), True)
        return result

    return wrapper


def telling_each_update(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate_and_save``, which comes behind each update."""

    @wraps(validate_and_save)
    def wrapper(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is not None:
            clock.tell(trainer.get_num_updates(), False)
        return validate_and_save(cfg, trainer, *args, **kwargs)

    return wrapper


def telling_it_is_busy(long: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate`` and ``checkpoint_utils.save_checkpoint``."""

    @wraps(long)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is None:
            return long(*args, **kwargs)
        with clock.busy():
            return long(*args, **kwargs)

    return wrapper
