"""What glibc does with freed memory while training on a CPU: keep it for speed, or give it back.

A training step frees and takes again gigabytes in blocks of tens of megabytes: activations, logits,
gradients of the embedding. glibc at first maps such blocks anew and hands them back on free, so that
each step pays the kernel for zeroing all its pages; and once a block was freed it takes those of its
size (up to 32 MB) from the heap, where small blocks soon lie between them and none can be returned.

``keep_freed_memory``: all from the heap, nothing returned. 7 to 9% more tokens/s for the 125M at
2 x 512 tokens on 2 cores, with the same peak memory (``benchmarks/train_step.py``).

``give_back_freed_memory``: large blocks are always mapped and returned. For sharded runs, whose layers
are gathered and dropped all the time to save memory: the process then holds what is in use, and not
nearly twice that, for half as much processor time again at 512 tokens a rank (``benchmarks/parallel.py``).
"""

import ctypes
import logging
import platform
from typing import Tuple

logger = logging.getLogger(__name__)

# Of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
TOP_PAD_BYTES = 268_435_456  # how much the heap grows at a time, at least
LARGE_BYTES = 1_048_576  # blocks from here on are mapped, once given back
MANY_BLOCKS = 65_536  # that may be mapped at a time: glibc's own number


def keep_freed_memory() -> None:
    """Ask glibc to map no blocks and to give nothing back."""
    _ask((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES))


def give_back_freed_memory() -> None:
    """Ask glibc to map every large block, and to return it as soon as it is freed."""
    _ask((M_MMAP_MAX, MANY_BLOCKS), (M_MMAP_THRESHOLD, LARGE_BYTES))


def _ask(*settings: Tuple[int, int]) -> None:
    """Set options of malloc; nothing happens with another C library."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not all(mallopt(option, value) for option, value in settings):
        logger.warning(
            "glibc refuses to be told what to do with freed memory; training on the CPU is slower "
            "or takes more memory for it"
        )
