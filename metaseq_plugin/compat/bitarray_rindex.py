"""bitarray 3 dropped ``util.rindex``; fairseq's Huffman-coded data folders are read with it.

``bitarray.find(value, right=True)`` is its successor. It is provided inside fairseq's module,
through a stand-in for its global ``util``, so that ``--dataset-impl huffman`` works.
"""

from types import SimpleNamespace
from typing import Any, Optional


def rindex(bits: Any, value: int) -> int:
    """The position of the last ``value`` in ``bits``; ValueError where there is none."""
    position: int = bits.find(value, right=True)
    if position < 0:
        raise ValueError(f"{value} is not in the bitarray")
    return position


def provide_rindex(huffman_coder: Any) -> Optional[str]:
    util = huffman_coder.util
    if hasattr(util, "rindex"):
        return "bitarray < 3"
    huffman_coder.util = SimpleNamespace(**vars(util), rindex=rindex)
    return None
