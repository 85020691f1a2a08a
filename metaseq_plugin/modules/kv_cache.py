"""Keys and values of the tokens read so far: a slot of memory for every row that is continued.

Legend: R rows, S slots, H heads, C room, K head dim, W columns in use.

A row holds each token's keys and values in a column of its slot, from column 0 on, at its own length.
How much room it needs is known when it is admitted (``room_for``), and rows of equal room share a
``Bucket``, one block of memory per layer, (S, H, C, K). Rows lie in slots 0 … R - 1 of their bucket, so
that attention reads a view. A row that joins takes the next slot; where one leaves, the bucket's last
row moves into its slot. Nobody else is copied, except layer by layer when a bucket needs more slots.

A row's attention masks what is not its own, but a weight of 0 times what is left in memory need not be
0. So each row knows up to which column its slot is ``clean``: its own, or zero.
"""

from itertools import groupby
from typing import Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

SMALLEST_ROOM = 64


def room_for(num_tokens: int, longest: int) -> int:
    """Columns that a row of at most ``num_tokens`` ≥ 1 takes: a power of two, so that few sizes occur.

    Args:
        longest: how many tokens the model reads, beyond which no row needs room.
    """
    return min(longest, max(SMALLEST_ROOM, 1 << (num_tokens - 1).bit_length()))


def bytes_per_token(num_layers: int, dim: int, dtype: torch.dtype) -> int:
    """What a column takes: a key and a value of ``dim`` numbers in every layer."""
    return 2 * num_layers * dim * dtype.itemsize


class Stretch(NamedTuple):
    """Columns of neighbouring rows."""

    rows: slice
    columns: slice


class Bucket:
    """Rows of equal room, row i in slot i.

    Attributes:
        lengths: columns that each row holds.
        clean: up to which column each row's slot holds its own or zeros; at least its length.
    """

    def __init__(self, room: int, num_layers: int) -> None:
        self.room = room
        self.num_slots = 0
        self.lengths: list[int] = []
        self.clean: list[int] = []
        self.keys: list[Tensor] = [torch.empty(0)] * num_layers  # (S, H, C, K)
        self.values: list[Tensor] = [torch.empty(0)] * num_layers  # (S, H, C, K)

    def memory(self, layer: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, both (S, H, C, K), of the kind of ``key`` (…, H, T, K)."""
        if len(self.keys[layer]) == 0:
            shape = (self.num_slots, key.size(1), self.room, key.size(3))
            self.keys[layer], self.values[layer] = key.new_empty(shape), key.new_empty(shape)
        return self.keys[layer], self.values[layer]

    def resize(self, num_slots: int) -> None:
        """Have so many slots, at least one per row; needs spare memory for one layer at a time."""
        rows, width = len(self.lengths), max(self.clean, default=0)
        for held in (self.keys, self.values):
            for layer, old in enumerate(held):
                if len(old) > 0:  # else it has not been asked for yet
                    new = old.new_empty(num_slots, *old.shape[1:])
                    new[:rows, :, :width] = old[:rows, :, :width]
                    held[layer] = new
        self.num_slots = num_slots

    def dirty(self, width: int) -> list[Stretch]:
        """Where the first ``width`` columns of the rows are not clean."""
        found, row = [], 0
        for clean, same in groupby(self.clean):
            rows = slice(row, row + len(list(same)))
            if clean < width:
                found.append(Stretch(rows, slice(clean, width)))
            row = rows.stop
        return found

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Let all but ``rows``, which rise, leave; which row each one has become."""
        count = len(rows)
        holes = sorted(set(range(count)).difference(rows))
        moved = [row for row in rows if row >= count]
        order = list(range(count))
        for hole, row in zip(holes, moved):
            order[hole] = row
        if moved:
            width = max(self.clean[row] for row in moved)
            for tensor in (*self.keys, *self.values):
                if len(tensor) > 0:
                    tensor[holes, :, :width] = tensor[moved, :, :width]
        self.forget_all_but(order)
        return order

    def select(self, rows: Sequence[int], start: int) -> None:
        """Row i becomes what ``rows[i]`` was, from column ``start`` on; no more rows than there are."""
        width = max(self.clean)
        index = torch.tensor(rows, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor[: len(rows), :, start:width] = tensor[:, :, start:width].index_select(0, index)
        self.forget_all_but(rows)

    def forget_all_but(self, rows: Sequence[int]) -> None:
        self.lengths = [self.lengths[row] for row in rows]
        self.clean = [self.clean[row] for row in rows]

    def repeat(self, source: int, rows: slice) -> None:
        """Let ``rows``, which hold nothing yet, hold what row ``source`` does."""
        length = self.lengths[source]
        for tensor in (*self.keys, *self.values):
            tensor[rows, :, :length] = tensor[source, :, :length]
        count = rows.stop - rows.start
        self.lengths[rows] = self.clean[rows] = [length] * count


class KVCache:
    """The rows of all buckets, counted through from the smallest room to the largest.

    Args:
        longest: how many tokens the model reads.
        max_tokens: how many columns to hold, spare slots included, as long as the rows need no more.
            None: as many as ``grow`` takes.
    """

    def __init__(self, num_layers: int, longest: int, max_tokens: Optional[int] = None) -> None:
        self.num_layers = num_layers
        self.longest = longest
        self.max_tokens = max_tokens
        self.buckets: list[Bucket] = []
        self.lengths: Optional[Tensor] = None  # (R,) on the device; None: ``buckets`` know better

    @property
    def num_rows(self) -> int:
        return sum(len(bucket.lengths) for bucket in self.buckets)

    @property
    def num_tokens(self) -> int:
        """Columns held, each of ``bytes_per_token``: those of all slots, whether in use or spare."""
        return sum(bucket.num_slots * bucket.room for bucket in self.buckets)

    def locate(self, row: int) -> tuple[Bucket, int]:
        """The bucket of a row, and its slot there."""
        for bucket in self.buckets:
            if row < len(bucket.lengths):
                return bucket, row
            row -= len(bucket.lengths)
        raise IndexError("no such row")

    def admit(self, num_tokens: Sequence[int]) -> list[int]:
        """Give newcomers, which need room for so many tokens, the slots behind the others of their buckets.

        Where memory for them fails, the others are as they were.

        Returns:
            Where each row comes from: from 0 on those there were, behind them the newcomers.
        """
        by_room: dict[int, list[int]] = {bucket.room: [] for bucket in self.buckets}
        first = self.num_rows
        for row, count in enumerate(num_tokens, first):
            by_room.setdefault(room_for(count, self.longest), []).append(row)
        buckets = {bucket.room: bucket for bucket in self.buckets}
        order, row = [], 0
        self.buckets = []
        for room in sorted(by_room):
            bucket = buckets.get(room) or Bucket(room, self.num_layers)
            self.buckets.append(bucket)
            order += [*range(row, row + len(bucket.lengths)), *by_room[room]]
            row += len(bucket.lengths)
        needed = {
            bucket: len(bucket.lengths) + len(by_room[bucket.room]) for bucket in self.buckets
        }
        try:
            for bucket in self.buckets:
                self.grow(bucket, needed)
        except BaseException:
            self.buckets = [bucket for bucket in self.buckets if bucket.lengths]
            raise
        for bucket in self.buckets:
            nothing = [0] * len(by_room[bucket.room])
            bucket.lengths += nothing
            bucket.clean += nothing
        self.lengths = None
        return order

    def grow(self, bucket: Bucket, needed: Mapping[Bucket, int]) -> None:
        """Have as many slots as are ``needed``: twice as many as before where ``max_tokens`` allows.

        Args:
            needed: by each of the buckets, so that none is left with fewer.
        """
        num_rows = needed[bucket]
        if num_rows <= bucket.num_slots:
            return
        wanted = max(num_rows, 2 * bucket.num_slots)
        others = self.num_tokens - bucket.num_slots * bucket.room
        if self.max_tokens is not None and others + wanted * bucket.room > self.max_tokens:
            wanted = num_rows
            if others + wanted * bucket.room > self.max_tokens:
                for other in self.buckets:
                    if other is not bucket and other.num_slots > needed[other]:
                        other.resize(needed[other])
        bucket.resize(wanted)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Let all rows but ``rows``, which rise, leave; where each row comes from."""
        order: list[int] = []
        first = 0
        for bucket in self.buckets:
            end = first + len(bucket.lengths)
            kept = bucket.keep([row - first for row in rows if first <= row < end])
            order += [first + row for row in kept]
            first = end
        self.buckets = [bucket for bucket in self.buckets if bucket.lengths]
        self.lengths = None
        return order

    def select(self, rows: Sequence[int], start: int) -> None:
        """Row i becomes what ``rows[i]`` was, from its token ``start`` on; rows may repeat.

        For rows of equal room, and no more of them than there are. The beams of a sentence share
        their prompt, so beam search moves only what follows it.
        """
        (bucket,) = self.buckets
        bucket.select(rows, start)
        self.lengths = None

    def repeat(self, source: int, num_rows: int) -> None:
        """Let the ``num_rows`` rows behind ``source``, of equal room, hold what it does."""
        bucket, slot = self.locate(source)
        bucket.repeat(slot, slice(slot + 1, slot + 1 + num_rows))
