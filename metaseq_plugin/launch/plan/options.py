"""The options of ``metaseq plan``: what is planned, by fairseq-train's names, and what is assumed of the world.

    add_options(parser)
    planned(args), assumptions(args)

Numbers of tokens: --batch-tokens as ``metaseq launch`` reads it (K and M are 1,024 and 1,024², as metaseq counts
batches), --tokens as everybody counts (K, M, B, T are 10³, 10⁶, 10⁹, 10¹²). A batch with a letter is a round number and
is taken to the nearest that the ranks can share out; one in full must divide.
"""

import argparse
import math
from pathlib import Path
from typing import Any, Iterator, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import BASELINES, TOTAL_TOKENS
from metaseq_plugin.launch.batch import UNITS, Asked, Batch, deal, indivisible, read_tokens
from metaseq_plugin.launch.plan.checkpoints import (
    DEVICE_MTBF_HOURS,
    RESTART_SECONDS,
    WRITE_RATE,
)
from metaseq_plugin.launch.plan.estimate import Assumptions
from metaseq_plugin.launch.plan.measured import POSITION_OFFSET, measured
from metaseq_plugin.launch.plan.memory_settings import RECOMPUTES, MemorySettings
from metaseq_plugin.launch.plan.planned import Planned
from metaseq_plugin.layout.layout import check_divides
from metaseq_plugin.ledger.carbon import INTENSITIES, INTENSITY, intensity
from metaseq_plugin.ledger.energy import PUE
from metaseq_plugin.ledger.flops import VOCAB_SIZE
from metaseq_plugin.ledger.rates import DEVICES, device
from metaseq_plugin.sizes import ARCH, MAX_POSITIONS, SIZES, size_of

PRECISION_FLAGS = ("fp32", "fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16")
DIMENSION_OPTIONS = ("layers", "embed_dim", "attention_heads", "ffn_embed_dim", "word_embed_dim")
COUNTS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MOST_ROUNDING = 0.25  # a batch that would have to change by more is refused
LARGEST_NUMBER = 10**9


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them, in groups."""
    add_model_options(parser.add_argument_group("the model"))
    add_run_options(parser.add_argument_group("the run, by fairseq-train's names"))
    world = parser.add_argument_group("what is assumed")
    world.add_argument("--mfu", type=float, metavar="X", help="share of the peak that model FLOPs reach (default: a published one)")  # fmt: skip
    world.add_argument("--measured", type=Path, metavar="RUN", help="take the rate of this run, a --save-dir")  # fmt: skip
    world.add_argument("--mtbf", type=float, metavar="HOURS", help="between failures of the whole run")  # fmt: skip
    world.add_argument("--device-mtbf", type=float, default=DEVICE_MTBF_HOURS, metavar="HOURS", help=f"of one device (default: {DEVICE_MTBF_HOURS:,.0f}, OPT-175B's)")  # fmt: skip
    world.add_argument("--write-rate", type=float, default=WRITE_RATE / 1e9, metavar="GB", help=f"GB/s that a rank writes (default: {WRITE_RATE / 1e9:g})")  # fmt: skip
    world.add_argument("--restart-minutes", type=float, default=RESTART_SECONDS / 60, metavar="X", help=f"until a failed run trains again (default: {RESTART_SECONDS / 60:g})")  # fmt: skip
    world.add_argument("--pue", type=float, default=PUE, metavar="X", help=f"energy of the building over that of the devices (default: {PUE:g})")  # fmt: skip
    world.add_argument("--power-share", type=float, default=1.0, metavar="X", help="mean power as a share of the rated (default: 1)")  # fmt: skip
    world.add_argument("--intensity", default=f"{INTENSITY:g}", metavar="G", help=f"g CO2e/kWh, or one of {', '.join(INTENSITIES)} (default: {INTENSITY:g})")  # fmt: skip


def add_model_options(group: Any) -> None:
    group.add_argument("--arch", required=True, help=f"{ARCH}_125m …, or {ARCH} with dimensions of your own")  # fmt: skip
    for name in DIMENSION_OPTIONS:
        group.add_argument(f"--decoder-{name.replace('_', '-')}", type=int, metavar="N", help="as fairseq-train's (default: the --arch's)")  # fmt: skip
    group.add_argument("--decoder-post-norm", action="store_true", default=None, help="as OPT-350M")
    group.add_argument("--decoder-max-positions", type=int, default=MAX_POSITIONS, metavar="N", help=f"longest input (default: {MAX_POSITIONS})")  # fmt: skip
    group.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, metavar="N", help=f"types of the dictionary (default: {VOCAB_SIZE}, OPT's)")  # fmt: skip
    group.add_argument("--dropout", type=float, default=0.1, metavar="X", help="default: 0.1")
    group.add_argument("--attention-dropout", type=float, default=0.1, metavar="X", help="default: 0.1")  # fmt: skip


def add_run_options(group: Any) -> None:
    group.add_argument("--gpus", type=int, required=True, metavar="N", help="in all: one rank each")
    group.add_argument("--gpu", metavar="NAME", help=f"{', '.join(row.name for row in DEVICES)}, or its driver's name")  # fmt: skip
    group.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="default: 8")
    group.add_argument("--cpu", action="store_true", help="ranks on CPUs; with --measured")
    group.add_argument("--batch-tokens", metavar="N", help="of an update: 524288, 0.5M (default: the recipe's)")  # fmt: skip
    group.add_argument("--tokens", default=f"{TOTAL_TOKENS // 10**9}B", metavar="N", help="to train on: 300B (default)")  # fmt: skip
    group.add_argument("--tokens-per-sample", type=int, default=MAX_POSITIONS, metavar="N", help=f"default: {MAX_POSITIONS}")  # fmt: skip
    group.add_argument("--batch-size", type=int, metavar="N", help="sequences that a rank takes at a time")  # fmt: skip
    group.add_argument("--update-freq", type=int, metavar="N", help="times that it does so in an update")  # fmt: skip
    group.add_argument("--model-parallel-size", type=int, default=1, metavar="N", help="default: 1")
    group.add_argument("--zero", type=int, choices=(0, 2, 3), default=3, help="3: fully_sharded (default); 2: with --no-reshard-after-forward; 0: plain data parallelism")  # fmt: skip
    kinds = group.add_mutually_exclusive_group()
    for name in PRECISION_FLAGS:
        text = "compute in it (default: fp16, as OPT)" if name == "fp16" else "compute in it"
        kinds.add_argument(f"--{name.replace('_', '-')}", dest="precision", action="store_const", const=name, help=text)  # fmt: skip
    group.add_argument("--checkpoint-activations", action="store_true", help="recompute activations")  # fmt: skip
    group.add_argument("--checkpoint-layers", type=int, metavar="N", help="of only the first N layers")  # fmt: skip
    group.add_argument("--recompute", choices=RECOMPUTES, default=MemorySettings().recompute, help="what of a layer: whole (default), or selective: norms and dropout")  # fmt: skip
    group.add_argument("--offload-activations", action="store_true", help="keep layers' inputs in CPU memory")  # fmt: skip
    group.add_argument("--sequence-parallel", action="store_true", help="cut activations between model parts")  # fmt: skip
    group.add_argument("--cpu-offload", action="store_true", help="optimizer state in CPU memory")
    group.add_argument("--criterion", choices=("chunked_cross_entropy", "cross_entropy"), default="chunked_cross_entropy", help="default: chunked_cross_entropy")  # fmt: skip


def planned(args: argparse.Namespace) -> Planned:
    """The run that the options describe.

    Raises:
        UserError: what cannot be, all of it in one message.
    """
    problems = [*ranges(args), *combinations(args)]
    if problems:
        raise UserError(*problems)
    size = size_of({**vars(args), "_name": args.arch})
    if size.embed_dim % size.heads:
        raise UserError(
            f"`--decoder-attention-heads` must divide `--decoder-embed-dim` ({size.embed_dim}), but is "
            f"{size.heads}. Set one that does."
        )
    if args.checkpoint_layers is not None and args.checkpoint_layers > size.layers:
        raise UserError(
            f"`--checkpoint-layers` must be from 1 to the number of layers ({size.layers}), but is "
            f"{args.checkpoint_layers}. Leave it out for all of them."
        )
    parts = args.model_parallel_size
    cut = {
        "`--gpus`": args.gpus,
        "`--decoder-attention-heads`": size.heads,
        "`--decoder-ffn-embed-dim`": size.ffn_embed_dim,
        "`--vocab-size`": args.vocab_size,
    }
    check_divides(parts, cut)
    batch, asked_tokens = batch_of(args)
    return Planned(
        arch=args.arch,
        size=size,
        num_ranks=args.gpus,
        ranks_per_node=min(args.gpus_per_node, args.gpus),
        model_parallel_size=parts,
        batch=batch,
        tokens=float(read_count(args.tokens)),
        settings=settings_of(args, batch),
        device=None if args.gpu is None else device(args.gpu),
        asked_tokens=0 if asked_tokens == batch.batch_tokens else asked_tokens,
    )


def settings_of(args: argparse.Namespace, batch: Batch) -> MemorySettings:
    return MemorySettings(
        batch_size=batch.batch_size,
        update_freq=batch.update_freq,
        tokens_per_sample=args.tokens_per_sample,
        precision=precision_of(args),
        fully_sharded=args.zero > 0,
        reshard_after_forward=args.zero == 3,
        cpu_offload=args.cpu_offload,
        checkpoint_activations=args.checkpoint_activations,
        checkpoint_layers=args.checkpoint_layers,
        recompute=args.recompute,
        offload_activations=args.offload_activations,
        sequence_parallel=args.sequence_parallel,
        dropout=args.dropout,
        attention_dropout=args.attention_dropout,
        chunked_loss=args.criterion == "chunked_cross_entropy",
        on_gpu=not args.cpu,
        vocab_size=args.vocab_size,
        position_rows=args.decoder_max_positions + POSITION_OFFSET,
    )


def precision_of(args: argparse.Namespace) -> str:
    """What is computed in: what was set, or fp16 on GPUs, fp32 on CPUs."""
    return args.precision or ("fp32" if args.cpu else "fp16")


def ranges(args: argparse.Namespace) -> Iterator[str]:
    """Numbers out of their ranges, a sentence each."""
    whole = ["gpus", "gpus_per_node", "tokens_per_sample", "model_parallel_size", "vocab_size",
             "decoder_max_positions", "batch_size", "update_freq", "checkpoint_layers",
             *(f"decoder_{name}" for name in DIMENSION_OPTIONS)]  # fmt: skip
    for name in whole:
        value = vars(args)[name]
        if value is not None and not 1 <= value <= LARGEST_NUMBER:
            yield f"`{option(name)}` must be from 1 to {LARGEST_NUMBER}, but is {value}. Set such a number."
    least = {"mtbf": 0.0, "device_mtbf": 0.0, "write_rate": 0.0, "power_share": 0.0}
    for name, low in least.items():
        value = vars(args)[name]
        if value is not None and not low < value < math.inf:
            yield f"`{option(name)}` must be above {low:g}, but is {value:g}. Set such a number."
    if not 0 <= args.restart_minutes < math.inf:
        yield f"`--restart-minutes` must be at least 0, but is {args.restart_minutes:g}. Set 0 or more."
    if not 1 <= args.pue < math.inf:
        yield f"`--pue` must be at least 1, but is {args.pue:g}. LLaMA's paper assumed {PUE:g}."
    for name in ("dropout", "attention_dropout"):
        if not 0 <= vars(args)[name] < 1:
            yield f"`{option(name)}` must be in [0, 1), but is {vars(args)[name]:g}. OPT's is 0.1."


def combinations(args: argparse.Namespace) -> Iterator[str]:
    """What does not go together, a sentence each."""
    names = [ARCH, *(f"{ARCH}_{size}" for size in SIZES)]
    if args.arch not in names:
        yield f"`--arch` must be one of {', '.join(names)}, but is {args.arch}. Set one of them."
    if args.tokens_per_sample > args.decoder_max_positions:
        yield (
            f"`--tokens-per-sample` must be at most --decoder-max-positions "
            f"({args.decoder_max_positions}), but is {args.tokens_per_sample}. Set both."
        )
    if args.sequence_parallel and args.model_parallel_size == 1:
        yield "`--sequence-parallel` must come with --model-parallel-size of 2 or more, but that is 1. Set it."
    yield from recomputation(args)
    if args.cpu_offload and args.zero == 0:
        yield "`--cpu-offload` must come with --zero 2 or 3, but that is 0. Set 3."
    precision = precision_of(args)
    if precision.startswith("memory_efficient") and (args.zero or args.model_parallel_size > 1):
        instead = precision.rpartition("_")[2]
        yield (
            f"`{option(precision)}` must come with --zero 0 and one model part, but those are "
            f"{args.zero} and {args.model_parallel_size}. Set --{instead}."
        )
    if args.criterion != "chunked_cross_entropy" and args.model_parallel_size > 1:
        yield (
            f"`--criterion` must be chunked_cross_entropy with --model-parallel-size, but is {args.criterion}. "
            "Set that."
        )
    if args.cpu == (args.gpu is not None):
        yield "`--gpu` must name the device, or --cpu stand in its place, but it is " + (
            "both. Leave one out." if args.cpu else "neither. Set for example a100-80gb."
        )
    if args.cpu and args.measured is None:
        yield "`--measured` must name a run with --cpu, whose rate is not known, but is missing. Set it."
    if args.mfu is not None and args.measured is not None:
        yield "`--mfu` must be left out with --measured, but both are set. Leave one out."


def recomputation(args: argparse.Namespace) -> Iterator[str]:
    """What --checkpoint-activations goes together with, a sentence each; as ``modules/checkpointing.py`` has it."""
    is_selective = args.recompute != MemorySettings().recompute
    if not args.checkpoint_activations:
        for name, is_set in (
            ("checkpoint_layers", args.checkpoint_layers is not None),
            ("recompute", is_selective),
            ("offload_activations", args.offload_activations),
        ):
            if is_set:
                yield f"`{option(name)}` must come with --checkpoint-activations, but comes alone. Add it."
    if args.offload_activations and is_selective:
        yield "`--recompute` must be whole with --offload-activations, but is selective. Set whole."


def batch_of(args: argparse.Namespace) -> tuple[Batch, int]:
    """What each rank takes of an update, and how many tokens were asked for; 0: --batch-size and --update-freq say.

    Raises:
        UserError: a batch that does not divide; says the nearest.
    """
    text: Optional[str] = args.batch_tokens
    if text is None and args.arch in BASELINES:
        text = f"{BASELINES[args.arch].batch_tokens / UNITS['M']:g}M"
    if text is None and not (args.batch_size and args.update_freq):
        raise UserError(
            f"`--batch-tokens` must be set with --arch {args.arch}, but is missing. Set for example 0.5M."
        )
    tokens = read_tokens(text, "--batch-tokens") if text else 0
    asked = Asked(tokens, args.tokens_per_sample, args.batch_size, args.update_freq)
    shards = args.gpus // args.model_parallel_size
    unit = shards * args.tokens_per_sample * (args.batch_size or 1) * (args.update_freq or 1)
    if text and text[-1:].upper() in UNITS:
        nearest = max(1, round(tokens / unit)) * unit
        if abs(nearest - tokens) > MOST_ROUNDING * tokens:
            raise UserError(indivisible(asked, unit, args.gpus, args.model_parallel_size))
        asked = asked._replace(batch_tokens=nearest)
    return deal(asked, args.gpus, args.model_parallel_size), tokens if args.batch_tokens else 0


def read_count(text: str) -> int:
    """``300B`` as 300,000,000,000."""
    unit = COUNTS.get(text[-1:].upper(), 1)
    number = text[:-1] if unit > 1 else text
    try:
        count = float(number.replace("_", "").replace(",", "")) * unit
        if not 1 <= count < 1e18:
            raise ValueError
    except ValueError:
        raise UserError(
            f"`--tokens` must be a number of tokens, but is {text}. Set for example 300B."
        ) from None
    return round(count)


def assumptions(args: argparse.Namespace) -> Assumptions:
    """What the options assume."""
    return Assumptions(
        mfu=args.mfu,
        measured=None if args.measured is None else measured(args.measured),
        mtbf_hours=args.mtbf,
        device_mtbf_hours=args.device_mtbf,
        write_rate=args.write_rate * 1e9,
        restart_seconds=args.restart_minutes * 60,
        pue=args.pue,
        power_share=args.power_share,
        intensity=intensity(args.intensity),
    )


def option(name: str) -> str:
    """As it is typed."""
    return f"--{name.replace('_', '-')}"
