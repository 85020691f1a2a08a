"""How long a run takes from its process's begin to its first update, and on what: told to the host, once.

(1) ``main`` is entered: options are read, everything is imported, and the ranks have met (``imports``);
(2) the checkpoint is about to be looked for: model and trainer stand (``model``);
(3) the first epoch begins: weights and position are loaded, batches are at hand (``data``);
(4) the first update is over, made or skipped; it compiles, too, what --compile asks for (``step``).
"""

import time
from contextvars import ContextVar
from functools import wraps
from typing import Any, Callable, Dict, Optional

from metaseq_plugin.compat.parallel_doors import host_of_rank


def wait_for_device() -> None:
    """The host may be ahead of a GPU, which late_statistics lets it be; once a run it waits."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def process_seconds() -> float:
    """Since this process began."""
    import psutil

    return time.time() - psutil.Process().create_time()


class StartClock:
    """The seconds of one start, part by part; ``parts`` adds up to ``seconds``."""

    def __init__(self, host: Any, seconds: float) -> None:
        self.host = host
        self.parts: Dict[str, float] = {"imports": seconds}
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def ends(self, part: str) -> None:
        """The time since the part before it went to ``part``."""
        now = time.monotonic()
        self.parts[part] = now - self._since
        self._since = now


# That of the run that this process trains, until its first update.
_clock: ContextVar[Optional[StartClock]] = ContextVar("start_clock", default=None)


def clocking(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main`` of a model of the host's."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        host = host_of_rank(cfg)
        if host is None:
            return main(cfg)
        token = _clock.set(StartClock(host, process_seconds()))
        try:
            return main(cfg)
        finally:
            _clock.reset(token)

    return wrapper


def having_built(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """``checkpoint_utils.load_checkpoint``, before which all is built; a run that goes back calls it again."""

    @wraps(load_checkpoint)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is not None and "model" not in clock.parts:
            clock.ends("model")
        return load_checkpoint(*args, **kwargs)

    return wrapper


def having_loaded(train: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.train``, of one epoch."""

    @wraps(train)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is not None and "data" not in clock.parts:
            clock.ends("data")
        return train(*args, **kwargs)

    return wrapper


def having_updated(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate_and_save``, which comes behind each update; the first is told of."""

    @wraps(validate_and_save)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        clock = _clock.get()
        if clock is not None:
            _clock.set(None)
            wait_for_device()
            clock.ends("step")
            clock.host.has_begun(clock.seconds, clock.parts)
        return validate_and_save(*args, **kwargs)

    return wrapper
