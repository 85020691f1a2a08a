"""Ask PyTorch for memory in huge pages, on Linux.

A CPU finds a page of memory through a small table, in which pages of 4 KiB soon have no room: decoding reads every weight
once a token, and waits for the table, not for the memory. With pages of 2 MiB it reads a quarter faster (figures are in
``modules/linear.py``). PyTorch's allocator asks for them where this variable is set when it is first called, so it is set
before fairseq is imported. Whoever has set it, to 0 say, is obeyed.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "THP_MEM_ALLOC_ENABLE"


def ask() -> str | None:
    """Set the variable unless the user has; the reason where it is not set."""
    if sys.platform != "linux":
        return "huge pages are Linux's"
    if VARIABLE in os.environ:
        return f"{VARIABLE} is set already"
    os.environ[VARIABLE] = "1"
    return None
