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

WAIT_SECONDS = 3.0  # for the others to meet the same mistake
SENTENCE, HEARD = "metaseq_plugin/sentence", "metaseq_plugin/heard"  # keys of the store

# What gloo, NCCL and the store say of a rank that is gone or silent -> what we say.
LOST_RANK = (
    (
        r"Connection (?:closed|reset) by peer|Broken pipe|got 0 bytes|[Rr]emote process exited",
        "Another rank of this run ended, so this one must; see its output for the reason.",
    ),
    (
        r"[Tt]imed out waiting (?P<ms>\d+)ms|wait timeout after (?P<ms_>\d+)ms",
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
    return rank, num_ranks, dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), store)


def say_once(sentence: str, say: Callable[[str], None]) -> None:
    """``say(sentence)`` in rank 0, and in every other rank that rank 0 does not speak for."""
    try:
        rank, num_ranks, store = meeting_place()
        if store is None:
            spoken_for = False
        elif rank == 0:
            store.set(SENTENCE, sentence)
            # torchrun ends the others as soon as one ends, and the store may be this process's own
            deadline = time.monotonic() + WAIT_SECONDS
            while store.add(HEARD, 0) < num_ranks - 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            spoken_for = False
        else:
            store.wait([SENTENCE], timedelta(seconds=WAIT_SECONDS))
            spoken_for = store.get(SENTENCE).decode() == sentence
            store.add(HEARD, 1)
    except RuntimeError:  # rank 0 did not speak, or is gone and its store with it
        spoken_for = False
    if not spoken_for:
        say(sentence)
