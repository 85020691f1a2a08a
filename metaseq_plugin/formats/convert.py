"""Convert between the forms of fairseq, Hugging Face and metaseq.

    metaseq convert runs/quickstart opt-hf --to hf
    metaseq convert opt-125m-hf opt-125m --to fairseq
    metaseq convert OPT-13B/reshard.pt opt-13b --to fairseq
    metaseq convert runs/quickstart for-metaseq --to metaseq --model-parallel-size 2 --num-shards 4

SRC is a checkpoint in one file or in parts, a run folder (its best, else its last), a Hugging Face folder, or
files of metaseq's: whole, in model parts, or in flattened shards. What it is shows in its content.

--to hf       DST gets config.json, model.safetensors, generation_config.json and the tokenizer's files.
--to fairseq  DST gets checkpoint.pt, dict.txt and the tokenizer's files, ready for

    fairseq-interactive DST --path DST/checkpoint.pt --user-dir metaseq_plugin --task opt_language_modeling
    fairseq-train DATA --finetune-from-model DST/checkpoint.pt --user-dir metaseq_plugin …

               and the flags are printed that give a model of its dimensions; fairseq-train takes them
               from the checkpoint where --arch is left out.

--to metaseq  DST gets reshard.pt, or reshard-model_part-J[-shardI].pt, and metaseq's tokenizer files.

Weights keep every bit unless --dtype is given. The steps: (1) find out what SRC is, map its tensors and
hold their names and shapes against the model that the settings describe (model.py), (2) write
everything into a temporary folder beside DST and rename it (write.py).
"""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any, List

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.fairseq import FAIRSEQ_CHECKPOINT
from metaseq_plugin.formats.hf.config import CONFIG_FILE, SETTINGS_FILES
from metaseq_plugin.formats.metaseq.write import STEM
from metaseq_plugin.formats.model import FAIRSEQ, METASEQ, Model, read_model
from metaseq_plugin.formats.tensors import DTYPES, count_parameters
from metaseq_plugin.formats.tokenizer import FILES as TOKENIZER_FILES
from metaseq_plugin.formats.write import (
    WRITERS,
    Plan,
    Request,
    Written,
    plan_writing,
)
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import MAX_POSITIONS, flags_of
from metaseq_plugin.storage.atomic import check_destination, matching, new_folder

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_MAX_SHARD_SIZE = "5GB"
# What a folder made here holds, one of the first three in any case: --overwrite deletes nothing else.
MARKS = (FAIRSEQ_CHECKPOINT, CONFIG_FILE, f"{STEM}*.pt")
BESIDE = ("model*.safetensors", "model*.json", *SETTINGS_FILES, *TOKENIZER_FILES)
# Beside the weights: the tokenizer's files and settings, generously.
OTHER_BYTES = 16 * 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src", metavar="SRC", type=Path, help="checkpoint, run folder, HF folder or metaseq's files"
    )
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--to", required=True, choices=tuple(WRITERS), help="format of DST")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with dict.txt and the tokenizer's files; default: beside the weights, else the "
        "data folder that the checkpoint was trained on",
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="data type; default: as in SRC")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help=f"--to hf: largest weight file in bytes, KB, MB or GB; default: {DEFAULT_MAX_SHARD_SIZE}",
    )
    parser.add_argument(
        "--model-parallel-size", type=int, metavar="N", help="--to metaseq: model parts; default: 1"
    )
    parser.add_argument(
        "--num-shards", type=int, metavar="M", help="--to metaseq: shards of each part; default: 1"
    )
    parser.add_argument(
        "--drop-optimizer",
        action="store_true",
        help="leave the optimizer's state behind; --to hf always does",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="read files of metaseq's that hold more than tensors and plain values. Such a file can "
        "run any program on this machine, so set this only if you trust who made it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a converted model in DST")


def run(args: argparse.Namespace) -> None:
    """Convert as asked and say what was written."""
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"`--data` must be a folder, but is {args.data}. Set the prepared folder.")
    check_options(args)
    made = partial(matching, marks=MARKS, others=BESIDE)
    check_destination(args.dst, args.src, args.overwrite, "a converted model", made)
    request = Request(
        args.dst,
        DTYPES[args.dtype] if args.dtype else None,
        parse_size(args.max_shard_size or DEFAULT_MAX_SHARD_SIZE),
        Layout(
            1 if args.model_parallel_size is None else args.model_parallel_size,
            1 if args.num_shards is None else args.num_shards,
        ),
        not args.drop_optimizer,
    )
    model = read_model(args.src, args.data, args.trust_pickle)
    if model.format == args.to != METASEQ:
        others = " or ".join(f"--to {name}" for name in WRITERS if name != args.to)
        raise UserError(
            f"`--to` must be another format than SRC's, but {args.src} is of {args.to} already. "
            f"Set {others}; `metaseq reshard` changes into how many files it is cut."
        )
    plan = plan_writing(model, request, args.to)
    with new_folder(args.dst, plan.num_bytes + OTHER_BYTES) as unfinished:
        written = WRITERS[args.to](unfinished, model, plan, request)
    print("\n".join(report(model, plan, args.dst, written, args.to)))  # noqa: T201


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that the format asked for does not have."""
    for option, to in (
        ("max_shard_size", "hf"),
        ("model_parallel_size", "metaseq"),
        ("num_shards", "metaseq"),
    ):
        if vars(args)[option] is not None and args.to != to:
            raise UserError(
                f"`--{option.replace('_', '-')}` must come with --to {to}, but does not. Leave it out."
            )


def parse_size(text: str) -> int:
    """Bytes of "5GB", "200 MB", "1GiB" or "1000000".

    Raises:
        UserError: anything else, or nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b|)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise UserError(
            f"`--max-shard-size` must be a size such as 5GB or 500MB, but is {text}. Set such a size."
        )
    return size


def training_flags(cfg: Any) -> List[str]:
    """What ``fairseq-train --finetune-from-model`` must be given for a model of ``cfg``."""
    longest = cfg.decoder_max_positions
    blocks = ["--tokens-per-sample", str(longest)] if longest < MAX_POSITIONS else []
    return [*flags_of(cfg), *blocks]


def report(model: Model, plan: Plan, dst: Path, written: Written, to: str) -> List[str]:
    """What was read and written, and how to train on."""
    num_parameters, held = count_parameters(model.tensors.twins)
    _, dtypes = count_parameters(plan.tensors.twins)
    files, tokenizer = written
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    lines = [
        f"read       {model.label}: {num_parameters:,} parameters, {held}",
        f"wrote      {dst}: {files[0]}{more} ({dtypes})",
        f"tokenizer  {tokenizer}",
    ]
    if to == FAIRSEQ:
        lines.append(f"flags      {' '.join(training_flags(model.cfg))}")
    if plan.optimizer is not None:
        lines.append(f"optimizer  Adam's state after {plan.optimizer.step:,.0f} updates")
    return lines
