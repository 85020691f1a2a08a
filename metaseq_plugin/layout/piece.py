"""Which block of a full tensor a rank, or a file, holds: the one geometry of every layout.

Tensor parallelism cuts a weight along one dim, sharding cuts what is left along dim 0. Both cuts
together leave a box: a start and a size along every dim of the full tensor. Writing, reading,
resharding and initialising all speak of these boxes, and none of them needs to know who cut.

    full (6, 4), model part 1 of 2 along dim 1, shard 0 of 2:  start (0, 2), size (3, 2)
"""

from typing import NamedTuple, Optional, Sequence, Tuple


class Piece(NamedTuple):
    """A box in a tensor of the full ``shape``; a size of 0 along a dim means that nothing is held."""

    shape: Tuple[int, ...]
    start: Tuple[int, ...]
    size: Tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Piece":
        """All of a tensor of ``shape``."""
        return cls(tuple(shape), (0,) * len(shape), tuple(shape))

    @property
    def is_whole(self) -> bool:
        return self.size == self.shape

    @property
    def slices(self) -> Tuple[slice, ...]:
        """What to index the full tensor with to get this piece."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size))

    def narrow(self, dim: int, start: int, size: int) -> "Piece":
        """The part of this piece that begins ``start`` after its own beginning along ``dim``."""
        starts, sizes = list(self.start), list(self.size)
        starts[dim] += start
        sizes[dim] = size
        return Piece(self.shape, tuple(starts), tuple(sizes))

    def overlap(self, other: "Piece") -> Optional["Piece"]:
        """What both hold of the same tensor, or None where they hold nothing in common."""
        assert self.shape == other.shape, f"pieces of {self.shape} and {other.shape}"
        start = tuple(map(max, self.start, other.start))
        ends = (min(a + n, b + m) for a, n, b, m in zip(self.start, self.size, *other[1:]))
        size = tuple(end - a for end, a in zip(ends, start))
        return Piece(self.shape, start, size) if all(n > 0 for n in size) else None

    def slices_within(self, holder: "Piece") -> Tuple[slice, ...]:
        """What to index ``holder``'s own tensor with to get this piece, which lies inside it."""
        return tuple(
            slice(a - b, a - b + n) for a, n, b in zip(self.start, self.size, holder.start)
        )
