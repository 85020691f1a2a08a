"""Time contenders side by side: each in a child process of its own, taking turns.

(1) every child prepares itself and notes its memory; (2) the parent asks the children one after the
other for a round, so that only one computes at a time and a busy machine slows all alike; (3) each
answers with the round's seconds and its peak memory.

Memory is what the process holds at its highest above what it held before it was prepared, when all
libraries were imported: the resident set on CPU; on CUDA what is allocated, though fairseq's trainer begins PyTorch's
own account of the highest anew at every update (``Peak``).
"""

import argparse
import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import torch

Round = Callable[[], None]
# What a child does first: (contender's name, options) -> one round.
Prepare = Callable[[str, argparse.Namespace], Round]


@dataclass
class Result:
    """What one contender's rounds showed."""

    seconds: List[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def best(self) -> float:
        return min(self.seconds)


def resident_bytes(which: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have {which}, but has not")


class Peak:
    """The most bytes allocated on CUDA since this was made, whoever resets PyTorch's account in between."""

    def __init__(self) -> None:
        self.before, self._reset = 0, torch.cuda.reset_peak_memory_stats
        self._reset()
        torch.cuda.reset_peak_memory_stats = self._keep_and_reset  # type: ignore[assignment]

    def _keep_and_reset(self, *device: Any) -> None:
        self.before = self.bytes
        self._reset(*device)

    @property
    def bytes(self) -> int:
        return max(self.before, torch.cuda.max_memory_allocated())

    def close(self) -> None:
        torch.cuda.reset_peak_memory_stats = self._reset


def _child(pipe: Connection, prepare: Prepare, name: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    is_cuda = options.device == "cuda"
    before = 0 if is_cuda else resident_bytes("VmRSS")
    highest = Peak() if is_cuda else None
    run = prepare(name, options)
    pipe.send(True)
    while pipe.recv():
        if is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = highest.bytes if highest is not None else resident_bytes("VmHWM")
        pipe.send((seconds, peak - before))


def take_turns(
    prepare: Prepare,
    names: Sequence[str],
    options: argparse.Namespace,
    rounds: int,
    warm_up: int = 0,
    sequential: bool = False,
) -> Dict[str, Result]:
    """Results by name after ``rounds`` rounds each; ``warm_up`` more before them are not timed.

    ``sequential`` ends each child before the next begins, for contenders too large to be in memory
    together. ``options`` must have ``device`` and ``threads``.
    """
    if sequential:
        results: Dict[str, Result] = {}
        for name in names:
            results |= take_turns(prepare, [name], options, rounds, warm_up)
        return results
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=_child, args=(theirs, prepare, name, options), daemon=True).start()
        theirs.close()
        pipes[name].recv()
    results = {name: Result() for name in names}
    for number in range(warm_up + rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds, results[name].peak_bytes = pipe.recv()
            if number >= warm_up:
                results[name].seconds.append(seconds)
    for pipe in pipes.values():
        pipe.send(False)
    return results


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--dtype`` and ``--threads``."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"],
                        help="compute type; default: float32 on CPU, bfloat16 on CUDA")  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's options, with the compute type settled."""
    options = parser.parse_args()
    options.dtype = options.dtype or {"cpu": "float32", "cuda": "bfloat16"}[options.device]
    return options


def machine(options: argparse.Namespace) -> str:
    """One line on what computed."""
    where = f"{options.threads} CPU threads"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    return f"{options.dtype} on {where}, torch {torch.__version__}"
