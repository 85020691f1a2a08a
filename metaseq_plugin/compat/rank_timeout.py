"""``--heartbeat-timeout`` bounds every wait of a run: for other ranks, and for this rank's own work.

fairseq only interrupts a rank whose model has not been called for so long, which a rank that waits
inside a collective never notices; the process groups keep torch's 10 or 30 minutes; and at the end
of a good run the heartbeat's thread is waited for as long as a heartbeat may take.

(1) The process groups, fairseq's, the device mesh's and all others, get the option as their timeout.
    A rank that waits for another one then raises, and the door says so (``last_words``). With NCCL, whose
    collectives the host need not wait for, its watchdog ends the process first, by SIGABRT.
(2) A rank that is stuck by itself raises nothing. The heartbeat ends it, ``GRACE_SECONDS`` later. That is so
    for what fairseq-train wraps; who uses fairseq's own wrapper gets the signal that they asked it for.
(3) The thread is woken when it is to end.
"""

import os
import sys
from datetime import timedelta
from functools import wraps
from typing import Any, Callable

from torch.distributed import distributed_c10d

GRACE_SECONDS = 10  # the collectives' timeout is the better reason, so it goes first


def bounding_collectives(distributed_init: Callable[[Any], int]) -> Callable[[Any], int]:
    """``distributed_init``, with ``--heartbeat-timeout`` as the timeout of all process groups."""

    @wraps(distributed_init)
    def wrapper(cfg: Any) -> int:
        seconds = cfg.distributed_training.heartbeat_timeout
        if seconds > 0:
            # torch reads these two for every group that is made without a timeout of its own.
            distributed_c10d.default_pg_timeout = timedelta(seconds=seconds)
            distributed_c10d.default_pg_nccl_timeout = timedelta(seconds=seconds)
        return distributed_init(cfg)

    return wrapper


def check_heartbeat(wrapper: Any, process_id: int) -> None:
    """End this process when its model is not called for the timeout and a little more."""
    wrapper._heartbeat.wait()  # for the first call
    while not wrapper._terminated:
        wrapper._heartbeat.clear()
        beat = wrapper._heartbeat.wait(wrapper.timeout + GRACE_SECONDS)
        if not beat and not wrapper._terminated:
            sys.stdout.flush()
            sys.stderr.write(
                f"fairseq-train: error: This rank has trained nothing for `--heartbeat-timeout` "
                f"({wrapper.timeout} seconds). Set more where validating or saving takes longer.\n"
            )
            sys.stderr.flush()
            os._exit(1)  # the main thread may wait in a library, where no signal reaches it


def stop_timeout(wrapper: Any) -> None:
    """End the heartbeat's thread, now."""
    wrapper._terminated = True
    while wrapper._heartbeat_thread is not None and wrapper._heartbeat_thread.is_alive():
        wrapper._heartbeat.set()
        wrapper._heartbeat_thread.join(0.01)


def wake_to_end(distributed_timeout_wrapper: Any) -> None:
    distributed_timeout_wrapper.DistributedTimeoutWrapper.stop_timeout = stop_timeout


def bound_own_work(distributed_fairseq_model: Any) -> None:
    """Give the models that a run distributes a wrapper whose heartbeat ends their rank."""
    module = distributed_fairseq_model
    module.DistributedTimeoutWrapper = type(
        "RankTimeout", (module.DistributedTimeoutWrapper,), {"_check_heartbeat": check_heartbeat}
    )
