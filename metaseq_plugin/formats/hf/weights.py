"""The weights of a Hugging Face folder, in any of the layouts that ``from_pretrained`` reads.

    model.safetensors                      or pytorch_model.bin
    model.safetensors.index.json           or pytorch_model.bin.index.json
    model-00001-of-00002.safetensors …     or pytorch_model-00001-of-00002.bin …

Written is always safetensors, in several files with an index where one would be too large.
"""

from pathlib import Path
from typing import Dict, List, Mapping

from safetensors.torch import save_file
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.tensors import num_bytes
from metaseq_plugin.storage import json_file, safetensors_file, torch_file
from metaseq_plugin.storage.lazy import Tensors

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
MAX_NAME_BYTES = 255  # what file systems allow


def read_weights(folder: Path) -> Dict[str, Tensor]:
    """All tensors of a Hugging Face folder by their names there, mapped from its files.

    Raises:
        UserError: no weights, a file that the index names is missing, or disagrees with the index.
    """
    for name in (SAFETENSORS, TORCH):
        if (folder / name).exists():
            return _read_file(folder / name)
        index = folder / (name + INDEX_SUFFIX)
        if index.exists():
            return _read_shards(folder, index)
    raise UserError(
        f"A Hugging Face folder must hold {SAFETENSORS} or {TORCH}, but {folder} holds neither. "
        "Give the folder of a Hugging Face model, downloaded whole."
    )


def _read_file(path: Path) -> Dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors_file.read(path)
    json_file.check_file(path)
    tensors = torch_file.read(path)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise UserError(
            f"{path} must hold tensors by name, but holds something else. Give a Hugging Face model."
        )
    return tensors


def _read_shards(folder: Path, index: Path) -> Dict[str, Tensor]:
    weight_map = json_file.read(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} must have the field `weight_map`, but has not. Fetch it again.")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or not _is_plain(file_name):
            raise UserError(
                f"{index} must name files of its own folder, but names {json_file.shown(file_name)}. "
                "Fetch it again."
            )
    tensors: Dict[str, Tensor] = {}
    for file_name in sorted(set(weight_map.values())):
        shard = _read_file(folder / file_name)
        for name, tensor in shard.items():
            if weight_map.get(name) != file_name:
                raise UserError(
                    f"{index} must say which file holds `{name}`, but {file_name} holds it unlisted. "
                    "Fetch the folder again."
                )
            tensors[name] = tensor
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise UserError(
            f"{folder / weight_map[missing[0]]} must hold `{missing[0]}` as {index.name} says, but "
            "does not. Fetch the folder again."
        )
    return tensors


def _is_plain(name: str) -> bool:
    """Whether ``name`` can be that of a file, and of one in the same folder."""
    is_one = Path(name).name == name and name not in ("", "..")
    return is_one and name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES


def plan_shards(tensors: Mapping[str, Tensor], max_bytes: int) -> List[List[str]]:
    """Names by file: in order, each file at most ``max_bytes`` unless one tensor alone is larger."""
    shards: List[List[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.nbytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += tensor.nbytes
    return shards


def write_weights(folder: Path, tensors: Tensors, max_bytes: int) -> List[str]:
    """Write tensors, named as Hugging Face has them, into ``folder``; the names of the files.

    Only one file's tensors are ever held.
    """
    shards = plan_shards(tensors.twins, max_bytes)
    stem, suffix = SAFETENSORS.rsplit(".", 1)
    files = [SAFETENSORS]
    if len(shards) > 1:
        numbers = range(1, len(shards) + 1)
        files = [f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}" for number in numbers]
    for file_name, names in zip(files, shards, strict=True):
        held = {name: torch_file.own_memory(tensors[name]).contiguous() for name in names}
        path = folder / file_name
        path.touch()
        mode = path.stat().st_mode  # as the user's umask has it; save_file would make it private
        save_file(held, path, metadata={"format": "pt"})
        path.chmod(mode)
        del held  # before the next file's tensors are made
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": num_bytes(tensors.twins)},
            "weight_map": {name: file for file, names in zip(files, shards) for name in names},
        }
        json_file.write(folder / (SAFETENSORS + INDEX_SUFFIX), index)
    return files
