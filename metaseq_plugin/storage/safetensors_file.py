"""safetensors files, read by mapping: eight bytes with the size of the header, the header, the values."""

from pathlib import Path
from typing import Dict

from safetensors import SafetensorError, safe_open
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.storage.json_file import check_file, unreadable

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 4 * 2**20  # of the 1,500 tensors of OPT-175B it has a twentieth of it


def read(path: Path) -> Dict[str, Tensor]:
    """The tensors of ``path``, mapped from the file.

    Raises:
        UserError: the file is missing, empty, cut off, or no safetensors file.
    """
    check_file(path)
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise UserError(
            f"{path} must be a safetensors file with a header of at most {MAX_HEADER_BYTES:,} bytes, but "
            f"has one of {header_bytes:,}. Copy or write it again."
        )
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
