"""What a rank of a real run has allocated at most in an update, counted by PyTorch's own profiler.

    most = allocated_in_update(2, tmp_path, "--arch", "opt_125m", …)      # bytes, of each rank

The profiler sees every block that a CPU's tensors take and give back, and the sum that is out. Unlike the resident set
this knows neither what glibc keeps nor whether a page was ever written. It starts before the model is built, and the
second update is looked at: from there on the optimizer has its state.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._profiler import _EventType

from metaseq_plugin.modules.collectives import all_gather, reduce_scatter
from tests.rank_runs import train_ranks

HAND_OVER_SECONDS = 0.05
UPDATE = 2  # the first one makes the optimizer's state


def allocations(profiler: Any) -> list[tuple[int, int]]:
    """(nanoseconds, bytes that are allocated then), in order."""
    found, waiting = [], list(profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.total_allocated))
    return sorted(found)


def let_the_rank_free(name: str) -> None:
    """Let gloo's thread drop a finished collective first: what a thread of its own gives back, the profiler misses."""
    collective = vars(dist)[name]

    def waited(*args: Any, async_op: bool = False, **kwargs: Any) -> Any:
        work = collective(*args, async_op=True, **kwargs)
        work.wait()
        time.sleep(HAND_OVER_SECONDS)
        return work if async_op else None

    setattr(dist, name, waited)


def watch(folder: Path, rank: int) -> None:
    """In a rank of a real run, before the command: write down the most bytes of update ``UPDATE``."""
    from fairseq.trainer import Trainer

    for name in ("all_reduce", all_gather.__name__, reduce_scatter.__name__):
        let_the_rank_free(name)
    profiler = torch.autograd.profiler.profile(use_cpu=True, use_kineto=True, profile_memory=True)
    profiler.__enter__()
    train_step = Trainer.train_step
    updates: list[int] = []

    def watched_step(*args: Any, **kwargs: Any) -> Any:
        updates.append(len(updates) + 1)
        with torch.profiler.record_function(f"update {updates[-1]}"):
            output = train_step(*args, **kwargs)
        if len(updates) == UPDATE:
            profiler.__exit__(None, None, None)
            results = profiler.kineto_results
            assert results is not None
            (start,) = (
                event.start_ns() for event in results.events() if event.name() == f"update {UPDATE}"
            )
            most = max(total for time, total in allocations(profiler) if time >= start)
            (folder / f"allocated{rank}.json").write_text(json.dumps(most))
        return output

    Trainer.train_step = watched_step


def allocated_in_update(num_ranks: int, folder: Path, *options: Any) -> list[int]:
    """``fairseq-train`` of ``num_ranks`` ranks on random tokens: the most bytes of each in an update."""
    ended = train_ranks(
        num_ranks, None, folder / "run", "--task", "opt_dummy_lm", "--max-update", UPDATE, "--no-save",
        "--disable-validation", *options, prepare=partial(watch, folder),
    )  # fmt: skip
    assert [rank.status for rank in ended] == [0] * num_ranks, ended[0].output[-4000:]
    return [json.loads((folder / f"allocated{rank}.json").read_text()) for rank in range(num_ranks)]
