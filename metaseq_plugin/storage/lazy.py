"""Tensors by name that are put together when they are asked for, and not before.

A model in parts and shards is larger than what a conversion may hold, so its tensors are makers: a
call that reads the pieces of one tensor from the mapped files. Names, shapes and data types are known
beforehand from twins on the meta device, which is all that checks and plans need.
"""

from typing import Callable, Dict, Iterator, List, Mapping, Sequence

import torch
from torch import Tensor

from metaseq_plugin.layout.piece import Piece

Maker = Callable[[], Tensor]


class Tensors(Mapping[str, Tensor]):
    """A mapping that makes a tensor anew each time it is looked up.

    Attributes:
        makers: name -> what makes the tensor.
        twins: name -> a tensor of the same shape and data type; look at nothing else of it.
    """

    def __init__(self, makers: Mapping[str, Maker], twins: Mapping[str, Tensor]) -> None:
        assert makers.keys() == twins.keys(), "a maker and a twin for every name"
        self.makers: Dict[str, Maker] = dict(makers)
        self.twins: Dict[str, Tensor] = dict(twins)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Tensors":
        """Tensors that exist already, mapped from a file or in memory."""
        return cls({name: _keep(tensor) for name, tensor in tensors.items()}, tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """The same under other names."""
        names = {name: rename(name) for name in self}
        return Tensors(
            {new: self.makers[old] for old, new in names.items()},
            {new: self.twins[old] for old, new in names.items()},
        )

    def select(self, names: Sequence[str]) -> "Tensors":
        """Only ``names``, in their order."""
        return Tensors(
            {name: self.makers[name] for name in names}, {name: self.twins[name] for name in names}
        )


def twin(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What stands for a tensor that is not made yet."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def piece_of(tensors: Tensors, name: str, piece: Piece) -> Maker:
    """What makes the part ``piece`` of a tensor."""
    return lambda: tensors[name][piece.slices]


def concatenated(tensors: Tensors, names: Sequence[str]) -> Maker:
    """What makes one tensor of several, one below the other."""
    return lambda: torch.cat([tensors[name] for name in names])


def rows(tensors: Tensors, name: str, start: int, end: int) -> Maker:
    """What makes the rows ``start`` to ``end`` of a tensor."""
    return lambda: tensors[name][start:end]


def stretch(holders: Sequence[Tensor], lengths: Sequence[int], start: int, end: int) -> Tensor:
    """Elements ``start`` to ``end`` of flat tensors laid end to end, of which ``lengths`` count.

    A view where one holder has them all, so that mapped files stay where they are.
    """
    found: List[Tensor] = []
    offset = 0
    for holder, length in zip(holders, lengths, strict=True):
        first, last = max(start, offset), min(end, offset + length)
        if first < last:
            found.append(holder[first - offset : last - offset])
        offset += length
    if not found:
        return holders[0][:0]
    return found[0] if len(found) == 1 else torch.cat(found)


def _keep(tensor: Tensor) -> Maker:
    return lambda: tensor
