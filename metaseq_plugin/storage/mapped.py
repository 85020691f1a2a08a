"""Memory of mapped files: pages that were read count as the process's until they are given back.

Who copies a model out of its files tensor by tensor calls ``release`` after each; else the process ends up holding
files and copies together.
"""

import ctypes
import mmap
import os
from pathlib import Path

from torch import Tensor

MAPS = Path("/proc/self/maps")  # only on Linux; elsewhere nothing is given back


def release(tensor: Tensor) -> None:
    """Give the pages of ``tensor`` back, if it lies in a mapped file; they are read again when they are used.

    A tensor in memory of its own is left alone.
    """
    if not MAPS.exists() or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    # Whole pages only, for the next tensor may begin on the last.
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first >= end or not _is_in_file(first, end):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _is_in_file(first: int, end: int) -> bool:
    """Whether the addresses are of one mapped file: memory of the process's own would lose its values."""
    for line in MAPS.read_text().splitlines():
        addresses, _, _, _, inode = line.split()[:5]
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= first < high:
            return end <= high and inode != "0"
    return False
