"""Keys and values of the tokens seen so far, so that a step of generation reads only the new token.

Legend: L layers, B batch, H heads, K head dim, C capacity in tokens, T new tokens.

One block of memory per layer is allocated once and written in place. A decoder call
(1) asks ``positions_and_mask`` where its new tokens stand, (2) lets every layer ``append`` its keys
and values and attend to what comes back, (3) calls ``advance`` once.
"""

from typing import Optional

import torch
from torch import Tensor


class KVCache:
    """Room for ``capacity`` tokens of ``batch_size`` sequences.

    Args:
        num_layers, num_heads, head_dim: the decoder's shape.
        batch_size: sequences (for beam search: sentences × beams).
        capacity: longest sequence in tokens, padding included.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (batch_size, num_heads, capacity, head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.is_pad = torch.zeros(batch_size, capacity, dtype=torch.bool, device=device)  # (B, C)
        self.capacity = capacity
        self.length = 0  # tokens held per sequence, padding included
        self.has_pad = False  # whether any held token is padding: decides if a mask is needed

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T, K) of the new tokens; all keys and values so far, (B, H, length+T, K)."""
        end = self.length + key.size(2)
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Count ``num_tokens`` new tokens as held; call once after the last layer's ``append``."""
        self.length += num_tokens

    def reorder(self, rows: Tensor) -> None:
        """Make row b of the cache what row ``rows[b]`` was, (B,); beam search picks its survivors."""
        for held in (self.keys, self.values):
            for layer, tensor in enumerate(held):
                held[layer][:, :, : self.length] = tensor[:, :, : self.length].index_select(0, rows)
        self.is_pad = self.is_pad.index_select(0, rows)


def attention_mask(is_pad: Tensor, num_queries: int) -> Optional[Tensor]:
    """Which keys each of the last ``num_queries`` positions may see, where plain causality is not enough.

    Args:
        is_pad: (B, S) bool, padding among all positions so far.

    Returns:
        (B, 1, T, S) bool, True = may attend: causal, and never to padding. A padding position sees
        itself, so that no row is empty (softmax of an empty row is NaN).
    """
    num_keys = is_pad.size(1)
    query = torch.arange(num_keys - num_queries, num_keys, device=is_pad.device)[:, None]  # (T, 1)
    key = torch.arange(num_keys, device=is_pad.device)[None, :]  # (1, S)
    visible = (key <= query) & ~is_pad[:, None, None, :]  # (B, 1, T, S)
    return visible | (key == query)
