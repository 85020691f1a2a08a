"""What the parallel engine costs and saves: ratios of layouts on CPU ranks, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.parallel memory --num-ranks 2 4
    OMP_NUM_THREADS=1 python -m benchmarks.parallel update-freq
    OMP_NUM_THREADS=1 python -m benchmarks.parallel tensor

memory: each layout trains the 125M's shape for some updates on random tokens, through ``torchrun`` and
    fairseq-train's own entry point (``parallel_rank.py``). A rank's peak is the highest resident set
    after the model began to be built, less the resident set just before: what model, gradients,
    optimizer, activations and communication take, without Python and the libraries.
update-freq: FSDP2 that scatters gradients after every micro-batch, beside FSDP2 that adds whole
    gradients up on each rank and scatters once; time of an update and peak.
tensor: our cut of the decoder's layers, plain local tensors, beside DTensor's ``parallelize_module`` of
    the same layers, forward and backward; they take turns in the same ranks.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np
import torch

VOCAB, SPECIALS = 50_272, 4
RANK_PROGRAM = Path(__file__).with_name("parallel_rank.py")
FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
GIVE_BACK, KEEP = ("--heap", "give-back"), ("--heap", "keep")


class Plan(NamedTuple):
    """Options of fairseq-train, and of ``parallel_rank.py``."""

    options: Sequence[str] = ()
    probe: Sequence[str] = ()


# DDP keeps freed memory, which is faster; beside FSDP, which does not, stands one that does not either.
PLANS = {
    "DDP": Plan(probe=GIVE_BACK),
    "DDP, freed memory kept": Plan(),
    "FSDP": Plan(FSDP),
    "FSDP, freed memory kept": Plan(FSDP, KEEP),
    "ZeRO-2": Plan((*FSDP, "--no-reshard-after-forward")),
}


class Measured(NamedTuple):
    """The ranks of one run; bytes are of the rank with the largest peak, seconds of one update."""

    peak: int
    resident: int
    seconds: float
    cpu_seconds: float


def write_data(folder: Path, num_tokens: int) -> None:
    """``dict.txt``, a ``train`` split of random tokens, and the ``valid`` one that fairseq asks for."""
    from fairseq.data.indexed_dataset import (
        MMapIndexedDatasetBuilder,
        data_file_path,
        index_file_path,
    )

    words = "".join(f"w{number} 1\n" for number in range(VOCAB - SPECIALS))
    (folder / "dict.txt").write_text(words)
    for split, length in (("train", num_tokens), ("valid", 8)):
        prefix = str(folder / split)
        builder = MMapIndexedDatasetBuilder(data_file_path(prefix), dtype=np.uint16)
        tokens = np.random.default_rng(0).integers(SPECIALS, VOCAB, length)
        builder.add_item(torch.from_numpy(tokens))
        builder.finalize(index_file_path(prefix))


def train(
    options: argparse.Namespace,
    num_ranks: int,
    plan: Plan,
    update_freq: int = 1,
) -> Measured:
    """``torchrun --nproc_per_node num_ranks``; the peak over ranks and the median update."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        updates = options.updates
        per_update = num_ranks * update_freq * options.batch_size * options.tokens_per_sample
        write_data(folder, (updates + 1) * per_update)
        fairseq = [
            *(folder, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu"),
            *("--distributed-backend", "gloo", "--arch", options.arch, "--lr", "1e-4"),
            *("--criterion", "chunked_cross_entropy", "--optimizer", "adamw", "--clip-norm", "1.0"),
            *("--tokens-per-sample", options.tokens_per_sample, "--batch-size", options.batch_size),
            *("--max-update", updates, "--update-freq", update_freq, "--disable-validation"),
            *("--no-save", "--no-progress-bar", *plan.options),
            *options.train.split(),
        ]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(
                "--nproc_per_node",
                num_ranks,
                RANK_PROGRAM,
                folder / "seen",
                *plan.probe,
                "--",
                *fairseq,
            ),
        ]
        environment = {**os.environ, "PYTHONPATH": str(RANK_PROGRAM.parent.parent)}
        ended = subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True
        )
        if ended.returncode:
            raise SystemExit(ended.stdout[-3000:] + ended.stderr[-6000:])
        seen = [json.loads(path.read_text()) for path in sorted(folder.glob("seen-rank*.json"))]
    assert len(seen) == num_ranks, f"{len(seen)} of {num_ranks} ranks measured"
    worst = max(seen, key=lambda rank: rank["highest"][-1] - rank["before"])
    highest = worst["highest"][-1]
    # The first update makes the moments.
    clock, cpu = (statistics.median(seen[0][kind][1:]) for kind in ("seconds", "cpu_seconds"))
    return Measured(highest - worst["before"], highest, clock, cpu)


def memory(options: argparse.Namespace) -> List[str]:
    """The peak of every plan beside that of the first on as many ranks."""
    rows = [
        "| ranks | | peak, GB a rank | of the first | resident, GB | seconds | processor seconds |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for num_ranks in options.num_ranks:
        base = 0
        for name in options.plans:
            one = train(options, num_ranks, PLANS[name])
            base = base or one.peak
            rows.append(
                f"| {num_ranks} | {name} | {one.peak / 1e9:.2f} | {one.peak / base:.3f} "
                f"| {one.resident / 1e9:.2f} | {one.seconds:.2f} | {one.cpu_seconds:.2f} |"
            )
            print(rows[-1], flush=True)
    return rows


def update_freq(options: argparse.Namespace) -> List[str]:
    """Scattering at every micro-batch beside adding up locally."""
    freq, num_ranks = options.update_freq, options.num_ranks[0]
    rows = [
        f"| {num_ranks} ranks, --update-freq {freq} | seconds | processor seconds | peak, GB a rank |",
        "| --- | ---: | ---: | ---: |",
    ]
    locally = ("--accumulate", str(freq))
    for name in ("FSDP", "ZeRO-2"):
        plan = PLANS[name]
        ways = {"scatter at every micro-batch": plan, "add up whole": plan._replace(probe=locally)}
        for way, each in ways.items():
            one = train(options, num_ranks, each, freq)
            rows.append(
                f"| {name}, {way} | {one.seconds:.2f} | {one.cpu_seconds:.2f} | {one.peak / 1e9:.2f} |"
            )
            print(rows[-1], flush=True)
    return rows


def tensor(options: argparse.Namespace) -> List[str]:
    """Our tensor parallelism beside DTensor's."""
    from benchmarks.parallel_tensor import compare

    rows = compare(options.num_ranks[0], options)
    print("\n".join(rows), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts: Dict[str, Any] = {"memory": memory, "update-freq": update_freq, "tensor": tensor}
    parser.add_argument("what", choices=parts, help="see above")
    parser.add_argument("--num-ranks", type=int, nargs="+", default=[2], help="ranks of the runs")
    parser.add_argument("--arch", default="opt_125m", help="whose shape")
    parser.add_argument("--tokens-per-sample", type=int, default=512, help="tokens T in a sample")
    parser.add_argument("--batch-size", type=int, default=1, help="samples B in a micro-batch")
    parser.add_argument(
        "--updates", type=int, default=3, help="of each run; the first is not timed"
    )
    parser.add_argument("--update-freq", type=int, default=4, help="micro-batches an update")
    parser.add_argument("--plans", nargs="+", default=["DDP", "FSDP"], choices=PLANS,
                        help="of memory; the first is what the others are compared with")  # fmt: skip
    parser.add_argument("--train", default="--attention-dropout 0",
                        help="more options for fairseq-train")  # fmt: skip
    parser.add_argument("--results", type=Path, help="Markdown file to append the tables to")
    options = parser.parse_args()
    rows = parts[options.what](options)
    if options.results:
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "fairseq"))
        command = shlex.join(["python", "-m", "benchmarks.parallel", *sys.argv[1:]])
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("a") as file:
            file.write(
                f"## {date.today()}, {versions}\n\n`{command}`\n\n" + "\n".join(rows) + "\n\n"
            )


if __name__ == "__main__":
    main()
