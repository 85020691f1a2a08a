"""What a rank says at its end, so that a run of many ranks ends in one sentence and not in many.

(1) A mistake that every rank meets is said by rank 0; one that only some meet, by each of them.
    The ranks compare notes in the store that they met in.
(2) A rank that loses another one says just that: the reason stands in the other's output.
"""

import os
import re
import time
from datetime import timedelta
from typing import Callable, Optional

import torch.distributed as dist
from torch.distributed import distributed_c10d

WAIT_SECONDS = 5.0  # for the others to meet the same mistake
SENTENCE, HEARD = "metaseq_plugin/sentence", "metaseq_plugin/heard"  # keys of the store

# What gloo, NCCL and the store say of a rank that is gone or silent -> what we say.
LOST_RANK = (
    (
        r"Connection (?:closed|reset) by peer|Broken pipe|got 0 bytes|[Rr]emote process exited",
        "Another rank of this run ended, so this one must; see its output for the reason.",
    ),
    (
        r"[Tt]imed out waiting (?P<ms>\d+)ms|wait timeout after (?P<ms_>\d+)ms"
        r"|ran for (?P<ms__>\d+) milliseconds before timing out",
        "Another rank of this run did not answer for {seconds:g} seconds; see its output. "
        "--heartbeat-timeout sets how long to wait.",
    ),
)


def lost_rank(error: BaseException) -> Optional[str]:
    """The sentence for an ``error`` that means that another rank is gone, else None."""
    text = str(error)
    if type(error).__name__ == "ProcessExitedException":  # of a rank that fairseq spawned
        return f"A rank of this run ended without a word: {text}."
    if not isinstance(error, dist.DistError) and not re.search("gloo/transport|NCCL", text):
        return None
    for pattern, sentence in LOST_RANK:
        match = re.search(pattern, text)
        if match:
            milliseconds = [int(value) for value in match.groupdict().values() if value]
            return sentence.format(seconds=sum(milliseconds) / 1000)
    return None


def meeting_place() -> tuple[int, int, Optional[dist.Store]]:
    """This rank, the number of ranks, and the store that they share; None where there is but one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size(), distributed_c10d._get_default_store()
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if num_ranks == 1 or "MASTER_PORT" not in os.environ:
        return rank, num_ranks, None
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # else rank 0 opens it
    store = dist.TCPStore(
        os.environ.get("MASTER_ADDR", "localhost"),
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not agents,
        wait_for_workers=False,
        timeout=timedelta(seconds=WAIT_SECONDS),
    )
    # torchrun starts a run that failed again, with the same store
    return (
        rank,
        num_ranks,
        dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), store),
    )


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Whether ``happened`` within so many seconds. (The store's own waiting logs a warning.)"""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_spoken_for(sentence: str) -> bool:
    """Whether rank 0 says ``sentence`` for this rank, too."""
    try:
        rank, _, store = meeting_place()
        if rank == 0 or store is None:
            return False
        said = within(WAIT_SECONDS, lambda: store.check([SENTENCE]))
        store.add(HEARD, 1)
        return said and store.get(SENTENCE).decode() == sentence
    except RuntimeError:  # rank 0 is gone, and the store with it
        return False


def speak_for_others(sentence: str) -> None:
    """In rank 0: leave ``sentence`` for the other ranks, and wait until they have read it.

    torchrun ends all ranks as soon as one ends, and the store may be this process's own.
    """
    try:
        rank, num_ranks, store = meeting_place()
        if rank == 0 and store is not None:
            store.set(SENTENCE, sentence)
            within(WAIT_SECONDS, lambda: store.add(HEARD, 0) >= num_ranks - 1)
    except RuntimeError:  # the store is gone: each rank says it itself
        return


def say_once(sentence: str, say: Callable[[str], None]) -> None:
    """``say(sentence)`` in rank 0, and in every other rank that rank 0 does not speak for."""
    if not is_spoken_for(sentence):
        say(sentence)
        speak_for_others(sentence)
