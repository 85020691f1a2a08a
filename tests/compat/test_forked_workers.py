"""A worker is deaf to whoever signals the whole group, and ends when its parent ends it."""

import multiprocessing
import os
import signal
import subprocess
import time
from typing import Any

from metaseq_plugin.compat.forked_workers import obey_parent_alone


def work(ready: Any) -> None:
    obey_parent_alone()
    ready.set()
    while True:
        time.sleep(0.01)


def test_a_worker_obeys_its_parent_alone() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work, args=(ready,))
    worker.start()
    assert ready.wait(10)
    for name in ("INT", "TERM"):  # another process sends these
        subprocess.run(["kill", "-s", name, str(worker.pid)], check=True)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == -signal.SIGTERM
