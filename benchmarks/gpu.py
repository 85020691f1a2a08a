"""All rows of one GPU in one command: updates of five sizes, beside Hugging Face's, the loss, and decoding.

    python -m benchmarks.gpu --minutes 8 --results benchmarks/results/DATE-cuda.md
    python -m benchmarks.gpu --device cpu --tiny

(1) The steps are in the order of what they are worth; each has a limit of its own, and none begins when the time is
    over. A row is written to --results when it is known, so that whoever ends the run early has the rows until then.
(2) Training runs in one child that imports the libraries once. Where a step takes too long, or fails, the child is
    ended, and the next step begins another.
(3) An update's time is that of several in a row, with one wait for the device at their end: the host may run ahead, as
    it does in a run. Of a row "of peak" is the share of the rate of the best matrix product, measured first, that
    the model's FLOPs reach (``benchmarks/train_step.py``).
(4) ``--profile`` adds, to each row of ours, the shares of the GPU's time by kind of kernel, and its idle share.
"""

import argparse
import gc
import multiprocessing
import subprocess
import sys
import time
import traceback
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import torch

from benchmarks.contenders import HUGGING_FACE, OURS, PRODUCT_SIZE, PRODUCTS, prepare
from benchmarks.kernels import shares_of, spans_of
from benchmarks.train_step import flops_per_token
from benchmarks.turns import Peak

HEAD = [
    "| size | tokens | who | ms an update | tokens/s | of peak | peak GB |",
    "| --- | --- | --- | ---: | ---: | ---: | ---: |",
]


class Step(NamedTuple):
    """One row of training; the seconds are its limit, compiling and warming up included."""

    arch: str
    batch: int
    tokens: int
    who: str
    compile: bool
    memory_efficient: bool = False
    checkpoint: bool = False
    seconds: int = 90

    @property
    def name(self) -> str:
        how = [" compiled"] if self.compile else []
        how += [", 16-bit weights"] if self.memory_efficient else []
        how += [", checkpointed"] if self.checkpoint else []
        return f"| {self.arch} | {self.batch} x {self.tokens} | {self.who}{''.join(how)} |"


STEPS = (
    Step("opt_125m", 32, 2048, OURS, compile=True),
    Step("opt_125m", 32, 2048, HUGGING_FACE, compile=True),
    Step("opt_125m", 32, 2048, OURS, compile=False, seconds=60),
    Step("opt_1.3b", 8, 2048, OURS, compile=True),
    Step("opt_125m", 4, 2048, OURS, compile=True, seconds=60),
    Step("opt_6.7b", 2, 2048, OURS, compile=True, memory_efficient=True, checkpoint=True, seconds=120),
    Step("opt_1.3b", 8, 2048, HUGGING_FACE, compile=True),
    Step("opt_350m", 16, 2048, OURS, compile=True),
    Step("opt_2.7b", 4, 2048, OURS, compile=True),
    Step("opt_125m", 4, 2048, HUGGING_FACE, compile=True, seconds=60),
    Step("opt_125m", 4, 2048, OURS, compile=False, seconds=60),
)  # fmt: skip
TINY = (
    Step("opt_8m", 1, 32, OURS, compile=False),
    Step("opt_8m", 1, 32, HUGGING_FACE, compile=False),
)
# Modules of this folder and what they are given; those of loss and decoding begin with what was asked most.
COMMANDS = (
    (60, "loss", "--tokens", "8192"),
    (60, "decode", "--batches", "1", "8", "64", "--rounds", "3", "--seconds", "5"),
    (60, "decode", "--shape", "1.3b", "--batches", "1", "16", "--rounds", "3", "--seconds", "5"),
)
TINY_COMMANDS = (
    (120, "loss", "--tokens", "64", "--dim", "16", "--vocab", "100", "--rounds", "1"),
    (120, "decode", "--shape", "tiny", "--batches", "1", "--rounds", "1", "--new-tokens", "2"),
)


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], None], times: int, device: str) -> float:
    """Of one of ``times`` in a row."""
    wait_for(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    wait_for(device)
    return (time.perf_counter() - began) / times


def settings(step: Step, options: argparse.Namespace) -> argparse.Namespace:
    """What the contenders ask for (``benchmarks/contenders.py``)."""
    return argparse.Namespace(
        arch=step.arch, batch_size=step.batch, tokens_per_sample=step.tokens, compile=step.compile, dropout=0.1,
        attention_dropout=0.0, memory_efficient=step.memory_efficient, checkpoint_activations=step.checkpoint,
        device=options.device, dtype=options.dtype,
    )  # fmt: skip


def product_rate(step: Step, options: argparse.Namespace) -> float:
    """FLOP/s of the best of some large matrix products."""
    product = prepare(PRODUCTS, settings(step, options))
    best = min(seconds_of(product, 5, options.device) for _ in range(4))
    return 2.0 * PRODUCT_SIZE[options.device] ** 3 / best


def measure(step: Step, rate: float, options: argparse.Namespace) -> List[str]:
    """The row of ``step``, and with --profile a line on its kernels."""
    peak = Peak() if options.device == "cuda" else None
    update = prepare(step.who, settings(step, options))
    for _ in range(options.warm_up):
        update()
    seconds = seconds_of(update, options.updates, options.device)
    num_tokens = step.batch * step.tokens
    share = num_tokens * flops_per_token(step.arch, step.tokens) / seconds / rate
    memory = "" if peak is None else f"{peak.bytes / 1e9:.2f}"
    row = (
        f"{step.name} {1e3 * seconds:.1f} | {num_tokens / seconds:,.0f} | {share:.1%} | {memory} |"
    )
    rows = [row]
    if options.profile and step.who == OURS:
        shares = shares_of(spans_of(update, 3))
        told = ", ".join(f"{kind} {part:.1%}" for kind, part in shares.items())
        rows.append(f"| | | {told or 'no kernels of a GPU'} | | | | |")
    if peak is not None:
        peak.close()
    return rows


def work(pipe: Connection, options: argparse.Namespace) -> None:
    """A child: the peak rate first, then a row for each step that comes; what fails is told."""
    pipe.send(product_rate(STEPS[0], options))
    while True:
        step, rate = pipe.recv()
        try:
            pipe.send(measure(step, rate, options))
        except Exception:  # noqa: BLE001  told in the row, and the others are measured
            said = traceback.format_exc().strip().splitlines()[-1].replace("|", "/")
            pipe.send([f"{step.name} {said[:200]} | | | |"])
        gc.collect()
        torch._dynamo.reset()
        if options.device == "cuda":
            torch.cuda.empty_cache()


class Worker:
    """The child that measures, begun when it is first asked."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rate = options, 0.0
        self.process: Any = None
        self.pipe: Any = None

    def begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.options), daemon=True)
        self.process.start()
        theirs.close()
        rate = self.pipe.recv()
        self.rate = self.rate or rate

    def ask(self, step: Step, seconds: float) -> List[str]:
        """The rows of ``step``; a sentence where they are not there in time."""
        try:
            if self.process is None:
                self.begin()
            self.pipe.send((step, self.rate))
            if self.pipe.poll(seconds):
                rows: List[str] = self.pipe.recv()
                return rows
            said = f"not within {seconds:.0f} s"
        except (EOFError, BrokenPipeError):
            said = "the process ended"
        self.end()
        return [f"{step.name} {said} | | | |"]

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def run_command(words: List[str], seconds: float, options: argparse.Namespace) -> List[str]:
    """What another benchmark of this folder prints, as a block."""
    command = [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:]]
    command += ["--device", options.device, "--dtype", options.dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return ["", f"`{' '.join(command[1:])}`: not within {seconds:.0f} s"]
    lines = ["", f"`{' '.join(command[1:])}`", "", "```text", done.stdout.strip(), "```"]
    if done.returncode:
        lines += ["", f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"]
    return lines


class Report:
    """Tells lines as they come: to the screen, and to --results."""

    def __init__(self, path: Optional[Path]) -> None:
        self.path = path
        if path is not None:
            path.write_text("")

    def add(self, *lines: str) -> None:
        print("\n".join(lines), flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write("\n".join(lines) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda", help="where to compute"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="small models, to see that all of it runs"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="behind which no step begins")
    parser.add_argument("--updates", type=int, default=8, help="timed updates of a row")
    parser.add_argument("--warm-up", type=int, default=3, help="updates before them")
    parser.add_argument("--profile", action="store_true", help="shares by kind of kernel, and idle")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.dtype = {"cpu": "float32", "cuda": "bfloat16"}[options.device]
    return options


def main() -> None:
    options = parse_arguments()
    until = time.monotonic() + 60 * options.minutes
    report, worker = Report(options.results), Worker(options)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    worker.begin()
    report.add(
        f"# {date.today()}, {options.dtype} on {where}, torch {torch.__version__}", "",
        f"`python -m benchmarks.gpu {' '.join(sys.argv[1:])}`. Peak: the matrix product's "
        f"{worker.rate / 1e12:.3g} TFLOP/s. Dropout 0.1.", "", *HEAD,
    )  # fmt: skip
    for step in TINY if options.tiny else STEPS:
        left = until - time.monotonic()
        if left > 0:
            report.add(*worker.ask(step, min(left, step.seconds)))
    worker.end()
    for seconds, *words in TINY_COMMANDS if options.tiny else COMMANDS:
        left = until - time.monotonic()
        if left > 0:
            report.add(*run_command([str(word) for word in words], min(left, seconds), options))


if __name__ == "__main__":
    main()
