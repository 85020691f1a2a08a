"""One rank of ``fairseq-train`` with a stop-watch and a scale: what ``parallel.py`` starts.

    torchrun --nproc_per_node 2 benchmarks/parallel_rank.py OUTPUT_STEM [probe options] -- DATA …

What follows ``--`` is the command line of ``fairseq-train``, whose own entry point runs. Around it:
(1) just before the model is built, the resident set is noted and its highest mark is set back;
(2) the seconds of every update are noted, by the clock and of processor time;
(3) at the end OUTPUT_STEM-rank⟨r⟩.json gets all that and the highest mark.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from benchmarks.turns import resident_bytes

PROCESS = Path("/proc/self")


def watch(seen: Dict[str, Any]) -> None:
    """Note memory before the model is built, and the time of each update."""
    from fairseq.trainer import Trainer

    from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask

    build_model, train_step = OPTLanguageModelingTask.build_model, Trainer.train_step

    def watched_build(*args: Any, **kwargs: Any) -> Any:
        (PROCESS / "clear_refs").write_text("5")  # the highest mark becomes the present size
        seen["before"] = resident_bytes("VmRSS")
        return build_model(*args, **kwargs)

    def timed_step(*args: Any, **kwargs: Any) -> Any:
        start, cpu_start = time.perf_counter(), time.process_time()
        output = train_step(*args, **kwargs)
        seen["seconds"].append(time.perf_counter() - start)
        seen["cpu_seconds"].append(time.process_time() - cpu_start)
        seen["highest"].append(resident_bytes("VmHWM"))
        return output

    OPTLanguageModelingTask.build_model = watched_build  # type: ignore[method-assign]
    Trainer.train_step = timed_step


def accumulate_unsharded(update_freq: int) -> None:
    """Let FSDP2 keep whole gradients until an update's last micro-batch, which reduces them."""
    from metaseq_plugin.tasks.opt_language_modeling import OPTLanguageModelingTask

    train_step = OPTLanguageModelingTask.train_step
    calls: List[int] = []

    def watched_step(task: Any, sample: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        model.module.set_requires_gradient_sync(calls[-1] % update_freq == 0)
        return train_step(task, sample, model, *args, **kwargs)

    OPTLanguageModelingTask.train_step = watched_step


def treat_freed_memory(as_what: str) -> None:
    """Let every layout keep freed memory, or give it back, or leave it to glibc's defaults."""
    from metaseq_plugin.distributed import host_memory as heap
    from metaseq_plugin.tasks import opt_language_modeling

    ways: Dict[str, Callable[[], None]] = {
        "keep": heap.keep_freed_memory,
        "give-back": heap.give_back_freed_memory,
        "glibc": lambda: None,
    }
    opt_language_modeling.keep_freed_memory = ways[as_what]
    opt_language_modeling.give_back_freed_memory = ways[as_what]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path, help="where the measurements go")
    parser.add_argument("--accumulate", type=int, default=0, help="--update-freq, to sum locally")
    parser.add_argument("--heap", choices=["keep", "give-back", "glibc"], help="for freed memory")
    split = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:split])
    sys.argv = ["fairseq-train", *sys.argv[split + 1 :]]

    from fairseq_cli import train

    import metaseq_plugin  # noqa: F401  registers everything

    seen: Dict[str, Any] = {"seconds": [], "cpu_seconds": [], "highest": []}
    watch(seen)
    if options.accumulate:
        accumulate_unsharded(options.accumulate)
    if options.heap:
        treat_freed_memory(options.heap)
    train.cli_main()
    rank = os.environ.get("RANK", "0")
    options.stem.with_name(f"{options.stem.name}-rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
