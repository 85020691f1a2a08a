"""Attention among rows that share their beginnings, which are computed once.

Legend: B trees, T tokens with padding, H heads, K head dim.

    reading = TreeAttention(depths, ends, dtype)
    features = decoder.extract_features(tokens, reading)     # (B, T), padded on the right

The rows ``a b c`` and ``a b d e`` are the tree ``a b c d e``: each token stands behind the one that it follows
or behind what branched off from that one. A token's branch, all that follows it in one row or another, ends at a
place of the tree; so a token sees those before it whose branches have not ended.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from metaseq_plugin.modules.positions import POSITION_OFFSET


class TreeAttention:
    """What the decoder asks in the place of a cache; nothing is kept.

    Args:
        depths: (B, T), each token's place in its rows, from 0.
        ends: (B, T), the place in the tree behind each token's branch; of padding its own place + 1.
        dtype: of the model.
    """

    def __init__(self, depths: Tensor, ends: Tensor, dtype: torch.dtype) -> None:
        self.depths = depths
        place = torch.arange(depths.size(1), device=depths.device)
        query, key = place[:, None], place[None, :]  # (T, 1), (1, T)
        visible = (key <= query) & (query < ends[:, None, :])  # (B, T, T)
        mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)
        self.mask = mask[:, None]  # (B, 1, T, T)

    def positions(self, tokens: Tensor) -> Tensor:
        return self.depths + POSITION_OFFSET

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, self.mask)

    def advance(self) -> None:
        """Nothing is held."""
