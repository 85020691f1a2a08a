"""What the ledger costs a training run: the share of an update, of its thread, and of each event.

    OMP_NUM_THREADS=2 python -m benchmarks.ledger
    OMP_NUM_THREADS=2 python -m benchmarks.ledger --arch opt_125m --dict-size 50272 --updates 25

The steps:
(1) a run of ``opt_dummy_lm`` is forked, in which every call of the recorder's is timed, as is each whole update, and
    the CPU time of the ledger's thread is read at the end;
(2) the time in the recorder is printed as a share of the updates' (both by the wall, and in CPU time), the thread's
    as a share of the run's, and the mean time of an event, which waits for the disk.

Numerator and denominator are of one run, so a busy machine slows both; two runs, with and without, differ by more.
"""

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path
from typing import Any, Callable, DefaultDict, List

from fairseq.trainer import Trainer
from fairseq_cli import train

import metaseq_plugin  # noqa: F401  registers
from metaseq_plugin.ledger.recorder import Recorder

AT_EACH_UPDATE = ("computing", "reduced", "behind_update", "waiting")
WARM_UP = 5  # updates


class Times:
    """Seconds by the wall and of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.wall: DefaultDict[str, float] = defaultdict(float)
        self.cpu: DefaultDict[str, float] = defaultdict(float)
        self.calls: DefaultDict[str, int] = defaultdict(int)

    def clear(self) -> None:
        for spent in (self.wall, self.cpu, self.calls):
            spent.clear()

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = function(*args, **kwargs)
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += time.thread_time() - cpu
            self.calls[name] += 1
            return result

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="opt_8m", help="size of the model")
    parser.add_argument("--tokens-per-sample", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dict-size", type=int, default=1_000)
    parser.add_argument("--updates", type=int, default=105, help="the first 5 are not timed")
    parser.add_argument("--ledger-interval", type=int, default=10)
    options = parser.parse_args()
    child = multiprocessing.get_context("fork").Process(target=run, args=(options,))
    child.start()
    child.join()
    assert child.exitcode == 0, f"exit status {child.exitcode}"


def run(options: argparse.Namespace) -> None:
    """The run, in the forked process."""
    times, thread_seconds = Times(), [0.0]
    step, ended = Trainer.train_step, Recorder.ended

    def timed_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.get_num_updates() == WARM_UP:
            times.clear()
        return times.of("update", step)(trainer, *args, **kwargs)

    def reading_the_thread(recorder: Recorder, reason: str) -> None:
        thread_seconds[0] = cpu_seconds_of("ledger")
        ended(recorder, reason)

    Trainer.train_step = timed_step
    for name in AT_EACH_UPDATE:
        setattr(Recorder, name, times.of("ledger", vars(Recorder)[name]))
    for name, timed in (
        ("event", times.of("event", Recorder.event)),
        ("ended", reading_the_thread),
    ):
        setattr(Recorder, name, timed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["fairseq-train", *words(options, Path(folder))]
        train.cli_main()
    show(times, thread_seconds[0] / (time.perf_counter() - began))


def cpu_seconds_of(name: str) -> float:
    """CPU time of the thread of this name, by the kernel's scheduler."""
    (thread,) = (found for found in threading.enumerate() if found.name == name)
    statistics = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text("ascii")
    return int(statistics.split()[0]) / 1e9


def words(options: argparse.Namespace, folder: Path) -> List[str]:
    return [
        "--user-dir", "metaseq_plugin", "--task", "opt_dummy_lm", "--arch", options.arch, "--cpu",
        "--tokens-per-sample", str(options.tokens_per_sample), "--batch-size", str(options.batch_size),
        "--dict-size", str(options.dict_size), "--criterion", "chunked_cross_entropy", "--optimizer", "adamw", "--lr", "6e-4", "--clip-norm", "1.0",
        "--max-update", str(options.updates), "--disable-validation", "--no-progress-bar",
        "--ledger-interval", str(options.ledger_interval), "--save-dir", str(folder),
    ]  # fmt: skip


def show(times: Times, share_of_thread: float) -> None:
    updates = times.calls["update"]
    for name, spent in (("wall", times.wall), ("CPU", times.cpu)):
        share = spent["ledger"] / (spent["update"] + spent["ledger"])
        print(
            f"ledger, {name:<5}{1e6 * spent['ledger'] / updates:9.0f} µs an update of "
            f"{1e3 * spent['update'] / updates:.1f} ms {100 * share:9.3f} %"
        )
    print(f"its thread {100 * share_of_thread:9.3f} % of a core")
    events = times.calls["event"]
    print(f"an event   {1e3 * times.wall['event'] / events:9.2f} ms, mean of {events}")


if __name__ == "__main__":
    main()
