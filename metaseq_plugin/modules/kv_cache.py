"""Keys and values of the tokens seen so far, so that a step of generation reads only the new token.

Legend: L layers, B batch, H heads, K head dim, C capacity in tokens, T new tokens, S tokens so far.

One block of memory per layer, allocated at the first call and written in place. A decoder call
(1) tells the cache with ``observe`` which new tokens are padding, (2) lets every layer ``append`` its
keys and values and attends to what comes back, (3) calls ``advance`` once.
"""

from typing import Optional

import torch
from torch import Tensor


class KVCache:
    """Room for ``capacity`` tokens, padding included, of any number of sequences.

    Args:
        num_layers: layers that will ``append``.
        capacity: longest sequence in tokens, padding included.
        has_pad: whether a token held may be padding that others must not see. None: look, in every
            call, which makes the host wait for an accelerator.
    """

    def __init__(self, num_layers: int, capacity: int, has_pad: Optional[bool] = None) -> None:
        self.keys: list[Tensor] = [torch.empty(0)] * num_layers  # (B, H, C, K)
        self.values: list[Tensor] = [torch.empty(0)] * num_layers  # (B, H, C, K)
        self.is_pad = torch.empty(0, dtype=torch.bool)  # (B, C)
        self.capacity = capacity
        self.length = 0  # tokens held per sequence, padding included
        self.looks_for_pad = has_pad is None
        self.has_pad = bool(has_pad)

    def observe(self, is_pad: Tensor) -> Tensor:
        """Note which new tokens are padding, (B, T) bool; the same of all tokens so far, (B, S)."""
        end = self.length + is_pad.size(1)
        assert end <= self.capacity, f"{end} tokens in a cache of {self.capacity}"
        if self.length == 0:
            self.is_pad = is_pad.new_zeros(is_pad.size(0), self.capacity)
        self.is_pad[:, self.length : end] = is_pad
        if self.looks_for_pad and not self.has_pad:
            self.has_pad = bool(is_pad.any())
        return self.is_pad[:, :end]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T, K) of the new tokens; all keys and values so far, (B, H, S, K)."""
        if self.length == 0:
            batch, heads, _, head_dim = key.shape
            self.keys[layer] = key.new_empty(batch, heads, self.capacity, head_dim)
            self.values[layer] = value.new_empty(batch, heads, self.capacity, head_dim)
        start, end = self.length, self.length + key.size(2)
        self.keys[layer][:, :, start:end] = key
        self.values[layer][:, :, start:end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Count ``num_tokens`` new tokens as held; call once after the last layer's ``append``."""
        self.length += num_tokens

    def reorder(self, rows: Tensor, start: int = 0) -> None:
        """Row b becomes what row ``rows[b]`` was, (B,), as far as tokens from ``start`` on go.

        The beams of a sentence share their prompt, so beam search moves only what follows it.
        """
        part = slice(start, self.length)
        for held in (self.keys, self.values):
            for tensor in held:
                tensor[:, :, part] = tensor[:, :, part].index_select(0, rows)
        self.is_pad[:, part] = self.is_pad[:, part].index_select(0, rows)

    def select(self, rows: Tensor, capacity: Optional[int] = None) -> None:
        """Hold ``len(rows)`` sequences: row b is what ``rows[b]`` was; dropped or repeated rows are fine."""
        self.capacity = capacity or self.capacity
        for held in (self.keys, self.values):
            for layer, tensor in enumerate(held):
                _, heads, _, head_dim = tensor.shape
                new = tensor.new_empty(len(rows), heads, self.capacity, head_dim)
                new[:, :, : self.length] = tensor[:, :, : self.length].index_select(0, rows)
                held[layer] = new
        old = self.is_pad[:, : self.length].index_select(0, rows)
        self.is_pad = old.new_zeros(len(rows), self.capacity)
        self.is_pad[:, : self.length] = old

    def join(self, other: "KVCache", drop: int, capacity: int) -> None:
        """Hold the sequences of ``other`` too, behind these; the shorter get padding on the left.

        Args:
            drop: how many first columns to leave out here, which are padding in every row.
            capacity: the new one.
        """
        mine, theirs = self.length - drop, other.length
        length = max(mine, theirs)
        here, there = slice(length - mine, length), slice(length - theirs, length)
        for held, others in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (old, more) in enumerate(zip(held, others)):
                rows, heads, _, head_dim = old.shape
                # Zeros, because a weight of 0 times what is left in empty memory may not be 0.
                new = old.new_zeros(rows + len(more), heads, capacity, head_dim)
                new[:rows, :, here] = old[:, :, drop : self.length]
                new[rows:, :, there] = more[:, :, :theirs]
                held[layer] = new
        rows = len(self.is_pad)
        is_pad = self.is_pad.new_ones(rows + len(other.is_pad), capacity)
        is_pad[:rows, here] = self.is_pad[:, drop : self.length]
        is_pad[rows:, there] = other.is_pad[:, :theirs]
        self.is_pad, self.length, self.capacity = is_pad, length, capacity
        self.has_pad = self.has_pad or other.has_pad or mine != theirs
