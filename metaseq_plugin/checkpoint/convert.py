"""Convert a model between a fairseq checkpoint and a Hugging Face OPT folder.

    metaseq convert runs/quickstart opt-hf --to hf
    metaseq convert opt-125m-hf opt-125m --to fairseq

--to hf       SRC is a checkpoint, in one file or in parts, or a run folder (its best, else its last); DST gets
              config.json, model.safetensors, generation_config.json and the tokenizer's files.
--to fairseq  SRC is a Hugging Face folder (safetensors or pytorch_model.bin, sharded or not); DST
              gets checkpoint.pt, dict.txt and the tokenizer's files, ready for

    fairseq-interactive DST --path DST/checkpoint.pt --user-dir metaseq_plugin --task opt_language_modeling
    fairseq-train DATA --finetune-from-model DST/checkpoint.pt --user-dir metaseq_plugin …

Weights keep every bit unless --dtype is given. The steps: (1) map the source's tensors, (2) hold
their names and shapes against the model that the settings describe, (3) write everything into a
temporary folder beside DST and rename it. This command stands above the model; the other files of
this package do not know it.
"""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from metaseq_plugin.checkpoint.fairseq_state import Checkpoint, build_state, exists, read_checkpoint
from metaseq_plugin.checkpoint.files import (
    FAIRSEQ_CHECKPOINT,
    HF_CONFIG,
    check_destination,
    new_folder,
    read_json,
    write_json,
)
from metaseq_plugin.checkpoint.hf_config import from_hf_config, to_hf_config, vocab_size_of
from metaseq_plugin.checkpoint.hf_weights import cast, dtype_of, read_weights, write_weights
from metaseq_plugin.checkpoint.names import (
    EMBEDDING,
    check_tensors,
    count_parameters,
    num_bytes,
    rename_to_fairseq,
    to_hf,
)
from metaseq_plugin.checkpoint.tokenizer_files import (
    fairseq_tokenizer,
    hf_tokenizer,
    write_generation_config,
)
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.data.tokenizer_base import DICTIONARY_FILE as DICT
from metaseq_plugin.data.tokenizer_base import DICTIONARY_MULTIPLE
from metaseq_plugin.models.opt import SIZES, OPTConfig, OPTDecoder, check_config, fill_size
from metaseq_plugin.tasks.opt_language_modeling import load_dictionary

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_MAX_SHARD_SIZE = "5GB"
# Beside the weights: the tokenizer's files and settings, generously.
OTHER_BYTES = 16 * 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", type=Path, help="checkpoint, run folder or HF folder")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--to", required=True, choices=("hf", "fairseq"), help="format of DST")
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
    parser.add_argument("--overwrite", action="store_true", help="replace a converted model in DST")


def run(args: argparse.Namespace) -> None:
    """Convert as asked and say what was written."""
    if not exists(args.src):
        raise UserError(f"SRC must exist, but {args.src} does not. Download or train it first.")
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"`--data` must be a folder, but is {args.data}. Set the prepared folder.")
    check_destination(args.dst, args.src, args.overwrite)
    dtype = DTYPES[args.dtype] if args.dtype else None
    if args.to == "hf":
        size = parse_size(args.max_shard_size or DEFAULT_MAX_SHARD_SIZE)
        lines = to_hf_folder(args.src, args.dst, args.data, dtype, size)
    else:
        if args.max_shard_size is not None:
            raise UserError(
                "`--max-shard-size` must come with --to hf, but does not. Leave it out."
            )
        lines = to_fairseq_folder(args.src, args.dst, args.data, dtype)
    print("\n".join(lines))  # noqa: T201


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


def to_hf_folder(
    src: Path, dst: Path, data: Optional[Path], dtype: Optional[torch.dtype], max_shard_bytes: int
) -> List[str]:
    """Convert a fairseq checkpoint; what was written, in lines for people."""
    source = read_checkpoint(src)
    cfg = complete_config(source.model_settings)
    vocab_size = len(source.tensors[EMBEDDING])
    check_tensors(source.tensors, expected_shapes(cfg, vocab_size), str(source.path))
    folder = data or find_data(source)
    ids: Dict[str, int] = {}
    if folder is not None:
        ids = load_dictionary(str(folder)).indices
        check_dictionary_size(len(ids), vocab_size, folder)
    _, dtype_name = dtype_of(source.tensors, dtype)
    tensors = {to_hf(name): tensor for name, tensor in source.tensors.items()}
    with new_folder(dst, needed_bytes(tensors, dtype)) as partial:
        write_json(partial / HF_CONFIG, to_hf_config(cfg, vocab_size, dtype_name))
        write_generation_config(partial)
        written = write_weights(partial, tensors, dtype, max_shard_bytes)
        note = (
            hf_tokenizer(folder, partial, ids, cfg.decoder_max_positions)
            if folder is not None
            else "none found; set --data to the folder that holds it"
        )
    return report(source.path, dst, tensors, dtype, f"{written[0]}{_and_more(written)}", note)


def to_fairseq_folder(
    src: Path, dst: Path, data: Optional[Path], dtype: Optional[torch.dtype]
) -> List[str]:
    """Convert a Hugging Face folder; what was written, in lines for people."""
    if not (src / HF_CONFIG).is_file():
        raise UserError(
            f"SRC must be a Hugging Face folder with {HF_CONFIG}, but {src} has none. "
            "For a fairseq checkpoint set --to hf."
        )
    config, source = read_json(src / HF_CONFIG), str(src / HF_CONFIG)
    cfg = complete_config(from_hf_config(config, source))
    check_config(cfg)
    vocab_size = vocab_size_of(config, DICTIONARY_MULTIPLE, source)
    tensors = rename_to_fairseq(read_weights(src), str(src))
    expected = expected_shapes(cfg, vocab_size)
    check_tensors(tensors, expected, str(src))
    with new_folder(dst, needed_bytes(tensors, dtype)) as partial:
        note = fairseq_tokenizer(data or src, partial, vocab_size)
        check_dictionary_size(len(load_dictionary(str(partial))), vocab_size, data or src)
        # In the model's own order, as fairseq would have saved it.
        held = {name: cast(name, tensors[name], dtype) for name in expected}
        state = build_state(held, fairseq_cfg(cfg, dst))
        torch.save(state, partial / FAIRSEQ_CHECKPOINT)
    return report(src, dst, tensors, dtype, FAIRSEQ_CHECKPOINT, note)


def complete_config(settings: Mapping[str, Any]) -> Any:
    """``OPTConfig`` as fairseq hands it to the model; what ``settings`` leaves out is its arch's."""
    known = {f.name for f in fields(OPTConfig)} & settings.keys()
    cfg = OmegaConf.merge(OmegaConf.structured(OPTConfig), {name: settings[name] for name in known})
    fill_size(cfg, cfg._name or "opt")
    return cfg


def expected_shapes(cfg: Any, vocab_size: int) -> Dict[str, torch.Size]:
    """Name and shape of every tensor of the model that ``cfg`` describes."""
    dictionary = Dictionary()
    for number in range(len(dictionary), vocab_size):
        dictionary.add_symbol(str(number))
    with torch.device("meta"):
        decoder = OPTDecoder(cfg, dictionary)
    return {f"decoder.{name}": tensor.shape for name, tensor in decoder.state_dict().items()}


def find_data(source: Checkpoint) -> Optional[Path]:
    """The folder with the checkpoint's dictionary: its own, else the one it was trained on."""
    candidates = [source.path.parent]
    if source.data:
        candidates.append(Path(source.data.split(":")[0]))
    return next((folder for folder in candidates if (folder / DICT).is_file()), None)


def check_dictionary_size(num_types: int, vocab_size: int, folder: Path) -> None:
    """Refuse a dictionary that is not the model's."""
    if num_types != vocab_size:
        raise UserError(
            f"{DICT} must give the model's {vocab_size:,} types, but in {folder} it gives "
            f"{num_types:,}. Set --data to the folder that the model was trained with."
        )


def fairseq_cfg(cfg: Any, data: Path) -> Dict[str, Any]:
    """A complete fairseq configuration, as a run with default options would have saved it."""
    arguments = ["", "--task", "opt_language_modeling", "--arch", "opt"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    container = OmegaConf.to_container(
        convert_namespace_to_omegaconf(parsed), resolve=True, enum_to_str=True
    )
    assert isinstance(container, dict)
    container["model"] = {**OmegaConf.to_container(cfg), "_name": arch_of(cfg)}
    container["task"]["data"] = str(data.resolve())
    container["task"]["tokens_per_sample"] = cfg.decoder_max_positions
    return container


def arch_of(cfg: Any) -> str:
    """The name of the size that ``cfg`` has, or the bare ``opt``."""
    for name in SIZES:
        size = argparse.Namespace()
        fill_size(size, f"opt_{name}")
        if all(cfg[option] == value for option, value in vars(size).items()):
            return f"opt_{name}"
    return "opt"


def needed_bytes(tensors: Dict[str, torch.Tensor], dtype: Optional[torch.dtype]) -> int:
    """Disk room that DST will take."""
    if dtype is None:
        return num_bytes(tensors) + OTHER_BYTES
    return sum(t.numel() for t in tensors.values()) * dtype.itemsize + OTHER_BYTES


def report(
    src: Path,
    dst: Path,
    tensors: Dict[str, torch.Tensor],
    dtype: Optional[torch.dtype],
    weights: str,
    tokenizer: str,
) -> List[str]:
    """What was read and written."""
    num_parameters, held = count_parameters(tensors)
    written = dtype_of(tensors, dtype)[1] if dtype else held
    return [
        f"read       {src}: {num_parameters:,} parameters, {held}",
        f"wrote      {dst}: {weights} ({written})",
        f"tokenizer  {tokenizer}",
    ]


def _and_more(files: List[str]) -> str:
    return f" and {len(files) - 1} more" if len(files) > 1 else ""
