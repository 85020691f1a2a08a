"""The first update of a start is over: a line in the log, and the event ``first_update`` of the ledger.

    started    first update after 21.4 s: imports 12.1, model 4.0, data 0.3, step 5; 24 of 24 graphs from the cache

Under --compile, ``graphs`` are those that Inductor made kernels of, ``cached`` those that it found made by a run before
this one, in ``TORCHINDUCTOR_CACHE_DIR`` (by default ``/tmp/torchinductor_USER``).
"""

import logging
import sys
from typing import Mapping, Optional

from metaseq_plugin.layout.peers import all_ranks
from metaseq_plugin.ledger.recorder import current_recorder
from metaseq_plugin.storage.json_lines import Row

logger = logging.getLogger("fairseq_cli.train")  # --log-file is a handler of this one
NAME_WIDTH = 10  # as in the lines that say what starts
HIT, MISSES = "fxgraph_cache_hit", ("fxgraph_cache_miss", "fxgraph_cache_bypass")


def compiled() -> Optional[Row]:
    """What this process has compiled so far; None where it has compiled nothing."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # asked, not imported: it takes seconds
    if dynamo is None:
        return None
    counted: Mapping[str, int] = dynamo.counters["inductor"]
    cached = counted.get(HIT, 0)
    graphs = cached + sum(counted.get(name, 0) for name in MISSES)
    return {"graphs": graphs, "cached": cached} if graphs else None


def tell_of_first_update(seconds: float, parts: Mapping[str, float]) -> None:
    """Say how long this start took to its first update; on rank 0.

    Args:
        seconds: since the process began; the sum of ``parts``.
    """
    if all_ranks().rank:
        return
    found = compiled()
    logger.info(f"{'started':{NAME_WIDTH}} {words(seconds, parts, found)}")
    recorder = current_recorder()
    if recorder is not None:
        recorder.event("first_update", seconds=seconds, **parts, **(found or {}))


def words(seconds: float, parts: Mapping[str, float], found: Optional[Row]) -> str:
    """``first update after 21.4 s: imports 12.1, …``."""
    spent = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    graphs = f"; {found['cached']} of {found['graphs']} graphs from the cache" if found else ""
    return f"first update after {seconds:.3g} s: {spent}{graphs}"
