"""The signals that an agent is sent: to save and be started again, or to save and end.

    with Told() as told:
        told.to_come_back      SIGUSR2 or SIGUSR1: the time limit is near, or the job is preempted
        told.to_end            SIGTERM or SIGINT

Inside, submitit's handlers stand back; ``told.ask_submitit()`` gives them the word once all is saved, and they
requeue the job.
"""

import signal
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Union

COME_BACK = (signal.SIGUSR1, signal.SIGUSR2)
END = (signal.SIGTERM, signal.SIGINT)
Handler = Union[Callable[..., Any], int, None]


def submitits_signal() -> signal.Signals:
    """The one that submitit has SLURM send before the time limit, and its handler requeues at."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within, SIGTERM ends this process, which submitit would have it ignore."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Told:
    """What this process has been told, as a context of the main thread.

    Attributes:
        received: the signals, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> "Told":
        for number in (*COME_BACK, *END):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def to_end(self) -> bool:
        return any(number in END for number in self.received)

    @property
    def name(self) -> str:
        """Of the first signal."""
        return signal.Signals(self.received[0]).name

    def ask_submitit(self) -> None:
        """Have submitit's handler write the job anew and requeue it.

        Raises:
            SystemExit: it has; this process is to end.
            subprocess.SubprocessError: SLURM did not take the request.
        """
        from submitit import JobEnvironment

        # What an agent left that was killed while it asked; submitit would stumble over it.
        written = JobEnvironment().paths.submitted_pickle
        written.with_suffix(f"{written.suffix}.save_tmp").unlink(missing_ok=True)
        number = submitits_signal()
        handler = self._before[number]
        assert callable(handler), "submitit has set its own"
        handler(number, None)
