"""safetensors files, read by mapping."""

from pathlib import Path
from typing import Dict

from safetensors import SafetensorError, safe_open
from torch import Tensor

from metaseq_plugin.storage.json_file import check_file, unreadable


def read(path: Path) -> Dict[str, Tensor]:
    """The tensors of ``path``, mapped from the file.

    Raises:
        UserError: the file is missing, empty, cut off, or no safetensors file.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
