"""Tensors by name that are put together when they are asked for, and not before.

A model in parts and shards is larger than what a conversion may hold, so each of its tensors is a call
that reads its pieces from the mapped files. Names, shapes and data types are known beforehand from twins
on the meta device, which is all that checks and plans need. A rank that holds a part of the model asks for
its ``piece`` of each tensor, and reads no more than that where the files allow it.
"""

from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from metaseq_plugin.layout.piece import Piece


class Lazy(NamedTuple):
    """A tensor that is not made yet."""

    twin: Tensor  # of the same shape and data type, on the meta device
    make: Callable[[], Tensor]
    cut: Optional[Callable[[Piece], Tensor]] = None  # makes a piece alone; None: it is cut from all

    def piece(self, piece: Piece) -> Tensor:
        """A block of the tensor; of one that is mapped, only the block is read, when it is used."""
        return self.make()[piece.slices] if self.cut is None else self.cut(piece)

    @classmethod
    def of(cls, tensor: Tensor) -> "Lazy":
        """A tensor that exists already, mapped from a file or in memory."""
        return cls(torch.empty_like(tensor, device="meta"), lambda: tensor)


class Tensors(Mapping[str, Tensor]):
    """A mapping that makes a tensor anew each time it is looked up.

    Attributes:
        lazy: name -> the tensor to make.
        twins: name -> its twin.
    """

    def __init__(self, lazy: Mapping[str, Lazy]) -> None:
        self.lazy: Dict[str, Lazy] = dict(lazy)
        self.twins: Dict[str, Tensor] = {name: held.twin for name, held in lazy.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Tensors":
        """Tensors that exist already."""
        return cls({name: Lazy.of(tensor) for name, tensor in tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.lazy[name].make()

    def piece(self, name: str, piece: Piece) -> Tensor:
        """A block of the tensor ``name``, made anew too."""
        return self.lazy[name].piece(piece)

    def __iter__(self) -> Iterator[str]:
        return iter(self.lazy)

    def __len__(self) -> int:
        return len(self.lazy)

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """The same under other names."""
        return Tensors({rename(name): held for name, held in self.lazy.items()})

    def select(self, names: Sequence[str]) -> "Tensors":
        """Only ``names``, in their order."""
        return Tensors({name: self.lazy[name] for name in names})

    def part(self, name: str, index: Any) -> Lazy:
        """What ``[index]`` of a tensor will be."""
        return Lazy(self.twins[name][index], lambda: self[name][index])

    def concatenated(self, names: Sequence[str]) -> Lazy:
        """One tensor of several, one below the other."""
        twin = torch.cat([self.twins[name] for name in names])
        return Lazy(twin, lambda: torch.cat([self[name] for name in names]))


def twin(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What stands for a tensor that is not made yet."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
