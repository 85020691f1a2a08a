"""Attention of new tokens over a ``KVCache``: whole prompts, or the next token of every row.

Legend: R rows, B rows of a pass, T prompt tokens with padding, H heads, K head dim, W columns read.

    reading = Prefill(cache, rows, [len(prompt) for prompt in prompts])
    features = decoder.extract_features(tokens, reading)     # (B, T), padded on the right
    step = DecodeStep(cache, device, dtype)
    features = decoder.extract_features(last[:, None], step)  # (R, 1)

The decoder asks for ``positions`` once, lets every layer ``attend``, which stores the new tokens' keys
and values, and calls ``advance`` at the end: a pass that fails midway has changed no row.
"""

from typing import NamedTuple, Optional, Protocol, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from metaseq_plugin.modules.kv_cache import Bucket, KVCache, Stretch
from metaseq_plugin.modules.positions import POSITION_OFFSET

# A step reads a multiple of so many columns, so that its shapes change seldom. The columns too many, 8 on
# average, are masked.
COLUMN_STEP = 16


class CachedAttention(Protocol):
    """What the decoder needs of a pass that reads new tokens into a cache."""

    def positions(self, tokens: Tensor) -> Tensor:
        """Rows of the position table, (B, T), for new ``tokens`` (B, T)."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store keys and values of the new tokens, and attend to what each may see; all (B, H, T, K)."""

    def advance(self) -> None:
        """Count the new tokens as held, after the last layer."""


class Prefill:
    """Prompts read in one pass into rows that hold nothing yet.

    Padding stands on the right, behind every query that counts, so plain causality is mask enough. Its keys
    and values are zero: a weight of 0 times what is infinite would not be 0.

    Args:
        rows: of the cache, one per prompt.
        lengths: tokens of each prompt.
    """

    def __init__(self, cache: KVCache, rows: Sequence[int], lengths: Sequence[int]) -> None:
        self.cache = cache
        self.lengths = lengths
        self.is_pad: Optional[Tensor] = None  # (B, 1, T, 1); None: there is none
        self.places: dict[Bucket, list[tuple[int, int, int]]] = {}  # (number in B, slot, length)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            bucket, slot = cache.locate(row)
            self.places.setdefault(bucket, []).append((number, slot, length))

    def positions(self, tokens: Tensor) -> Tensor:
        count = tokens.size(1)
        assert count <= self.cache.longest, f"{count} tokens where {self.cache.longest} are read"
        places = torch.arange(count, device=tokens.device)
        if min(self.lengths) < count:
            lengths = torch.tensor(self.lengths, device=tokens.device)
            self.is_pad = (places >= lengths[:, None])[:, None, :, None]
        return (places + POSITION_OFFSET).expand_as(tokens)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.is_pad is not None:
            key, value = key.masked_fill(self.is_pad, 0), value.masked_fill(self.is_pad, 0)
        for bucket, places in self.places.items():
            numbers, slots, lengths = (list(column) for column in zip(*places))
            for memory, new in zip(bucket.memory(layer, key), (key, value)):
                memory[slots, :, : max(lengths)] = new[numbers, :, : max(lengths)]
        is_causal = query.size(2) > 1
        return scaled_dot_product_attention(query, key, value, is_causal=is_causal)

    def advance(self) -> None:
        for bucket, places in self.places.items():
            for _, slot, length in places:
                bucket.lengths[slot] = bucket.clean[slot] = length
        self.cache.lengths = None


class Part(NamedTuple):
    """A step's share of one bucket."""

    bucket: Bucket
    rows: slice  # of the cache
    slots: Tensor  # (R,) 0, 1, …
    columns: Tensor  # (R,) where each row's new token goes
    mask: Tensor  # (R, 1, 1, W), added to the scores
    dirty: list[Stretch]


class DecodeStep:
    """One new token for every row of the cache.

    Between ``positions`` and ``advance`` nothing is read back from the device, and every shape follows
    from the buckets' numbers of rows and their widths, multiples of ``COLUMN_STEP``. A row that is full,
    because it has ended and nobody has asked yet, writes its last column again.
    """

    def __init__(self, cache: KVCache, device: torch.device, dtype: torch.dtype) -> None:
        self.cache = cache
        if cache.lengths is None:
            held = [length for bucket in cache.buckets for length in bucket.lengths]
            cache.lengths = torch.tensor(held, device=device)
        self.lengths = cache.lengths  # (R,)
        self.parts: list[Part] = []
        first = 0
        for bucket in cache.buckets:
            rows = slice(first, first + len(bucket.lengths))
            self.parts.append(self.part(bucket, rows, dtype))
            first = rows.stop

    def part(self, bucket: Bucket, rows: slice, dtype: torch.dtype) -> Part:
        steps = max(bucket.lengths) // COLUMN_STEP + 1
        width = min(steps * COLUMN_STEP, bucket.room)
        columns = self.lengths[rows].clamp(max=bucket.room - 1)
        slots = torch.arange(len(columns), device=columns.device)
        behind = torch.arange(width, device=columns.device) > columns[:, None]  # (R, W)
        mask = torch.zeros_like(behind, dtype=dtype).masked_fill_(behind, -torch.inf)
        return Part(bucket, rows, slots, columns, mask[:, None, None], bucket.dirty(width))

    def positions(self, tokens: Tensor) -> Tensor:
        columns = torch.cat([part.columns for part in self.parts])
        return columns[:, None] + POSITION_OFFSET

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = []
        for bucket, rows, slots, columns, mask, dirty in self.parts:
            count, width = mask.size(0), mask.size(3)
            keys, values = bucket.memory(layer, key)  # (S, H, C, K)
            for memory, new in ((keys, key), (values, value)):
                for stretch in dirty:
                    memory[stretch.rows, :, stretch.columns].zero_()
                memory[slots, :, columns] = new[rows, :, 0]
            seen = (keys[:count, :, :width], values[:count, :, :width])  # (R, H, W, K)
            found.append(scaled_dot_product_attention(query[rows], seen[0], seen[1], mask))
        return found[0] if len(found) == 1 else torch.cat(found)

    def advance(self) -> None:
        for bucket, _, _, _, mask, _ in self.parts:
            bucket.lengths = [min(length + 1, bucket.room) for length in bucket.lengths]
            bucket.clean = [max(clean, mask.size(3)) for clean in bucket.clean]
        self.cache.lengths = self.lengths + 1
