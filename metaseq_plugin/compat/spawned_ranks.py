"""The process that fairseq spawns ranks from passes SIGINT and SIGTERM on, and ends as the ranks do.

It trains nothing itself. Of one that is told to stop, Python would make an exception and leave the ranks to find
out; where they stop by themselves (``stop_on_signal``), fairseq would call that a failure.
"""

import multiprocessing
import os
import signal
import threading
import time
from functools import wraps
from typing import Any, Callable

from torch.multiprocessing import ProcessExitedException

from metaseq_plugin.compat.host import host_of
from metaseq_plugin.compat.stop_on_signal import SAME_SECONDS, SIGNALS


class Relay:
    """Sends what it hears to all ranks; a second time, it kills them.

    Attributes:
        received: number of the first signal; 0: none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> "Relay":
        for number, before in self._before.items():
            if before not in (signal.SIG_IGN, None):
                signal.signal(number, self._hear)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _hear(self, number: int, frame: Any) -> None:
        is_second = self.received and time.monotonic() - self._since > SAME_SECONDS
        if not self.received:
            self.received, self._since = number, time.monotonic()
        for rank in multiprocessing.active_children():
            if is_second:
                rank.kill()
            elif rank.pid is not None:
                os.kill(rank.pid, number)


def will_spawn(cfg: Any) -> bool:
    """Whether fairseq starts the ranks of ``cfg``, a whole configuration, by itself."""
    from fairseq.distributed import utils

    distributed = cfg.distributed_training
    if distributed.distributed_init_method is None:
        utils.infer_init_method(distributed)
    return distributed.distributed_init_method is not None and not distributed.distributed_no_spawn


def passing_on(call_main: Callable[..., Any]) -> Callable[..., Any]:
    """``call_main``, with a ``Relay`` where it spawns ranks that train a model of the host's."""

    @wraps(call_main)
    def wrapper(cfg: Any, main: Callable[..., Any], **kwargs: Any) -> Any:
        host = host_of(cfg)
        is_main_thread = threading.current_thread() is threading.main_thread()
        trains = main.__module__ == "fairseq_cli.train" and is_main_thread
        if not trains or host is None or not host.saves_on_signal(cfg) or not will_spawn(cfg):
            return call_main(cfg, main, **kwargs)
        with Relay() as relay:
            try:
                call_main(cfg, main, **kwargs)
            except ProcessExitedException as error:
                number = relay.received or error.exit_code - 128
                if number not in SIGNALS:
                    raise
                raise SystemExit(128 + number) from None
            if relay.received:
                raise SystemExit(128 + relay.received)
        return None

    return wrapper
