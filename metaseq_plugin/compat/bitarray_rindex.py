"""bitarray 3 dropped ``util.rindex``; fairseq's Huffman-coded data folders are read with it.

``bitarray.find(value, right=True)`` is its successor. It is provided inside fairseq's module,
through a stand-in for its global ``util``, so that ``--dataset-impl huffman`` works.
"""

from types import ModuleType, SimpleNamespace
from typing import Any, Optional


def rindex(bits: Any, value: int) -> int:
    """The position of the last ``value`` in ``bits``; ValueError where there is none."""
    position: int = bits.find(value, right=True)
    if position < 0:
        raise ValueError(f"{value} is not in the bitarray")
    return position


def apply(target: Optional[ModuleType]) -> str:
    util = target.util  # type: ignore[union-attr]
    if hasattr(util, "rindex"):
        return "not needed (bitarray < 3)"
    target.util = SimpleNamespace(**vars(util), rindex=rindex)  # type: ignore[union-attr]
    return "applied"
