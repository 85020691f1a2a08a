"""NumPy 2 keeps ``uint16(1) - 2`` unsigned, where NumPy 1 gave -1; fairseq's blocks subtract so.

``TokenBlockDataset.__getitem__`` takes ``buffer[0 : e - 2]`` with ``e`` read from an unsigned
array: for a block of one token (an empty line) NumPy 2 warns of an overflow and takes the whole
buffer. The block offsets are built as int64 instead, from which ``e`` inherits its sign.
"""

from functools import wraps
from typing import Any, Callable, Optional

import numpy


def signed_offsets(build: Callable[..., tuple[Any, Any, Any]]) -> Callable[..., Any]:
    """``build`` (sizes, offsets, slices), with the offsets signed."""

    @wraps(build)
    def wrapper(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        sizes, block_to_dataset_index, slice_indices = build(*args, **kwargs)
        return sizes, block_to_dataset_index.astype(numpy.int64), slice_indices

    return wrapper


def sign_offsets(token_block_dataset: Any) -> Optional[str]:
    if int(numpy.__version__.partition(".")[0]) < 2:
        return f"NumPy {numpy.__version__}"
    dataset = token_block_dataset.TokenBlockDataset
    dataset._build_slice_indices = staticmethod(signed_offsets(dataset._build_slice_indices))
    return None
