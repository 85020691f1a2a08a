"""Workers that a training run forked obey the process that forked them, and nobody else.

A terminal, torchrun, ``timeout`` and SLURM send a signal to every process of a run. The rank itself knows what
to do (``stop_on_signal``); its data workers must go on working for it, and end when it ends them.
"""

import os
import signal
from threading import Thread


def obey_parent_alone() -> None:
    """In a worker, right after the fork: leave SIGINT to the parent, and take SIGTERM from nobody else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=end_when_told, args=(os.getppid(),), daemon=True).start()


def end_when_told(parent: int) -> None:
    """Wait for SIGTERM, which all threads block, until ``parent`` has sent it; then die of it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
