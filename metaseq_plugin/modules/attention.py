"""Attention of a layer that trains or evaluates: by PyTorch's fused kernels, or by rows where those refuse."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from metaseq_plugin.modules.attention_rows import dropped_attention


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor], dropout: float
) -> Tensor:
    """softmax(QKᵀ/√K + mask), dropped out with probability ``dropout``, times V.

    Args:
        query, key, value: (B, H, T, K).
        mask: (B or 1, 1, T, T), added to the scores; None: causality.
        dropout: in [0, 1); 0 where nothing trains.

    Returns: (B, H, T, K).
    """
    if dropout > 0 and _is_plain_cpu(query):
        return dropped_attention(query, key, value, mask, dropout)
    is_causal = mask is None and query.size(2) > 1
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=dropout, is_causal=is_causal
    )


def _is_plain_cpu(x: Tensor) -> bool:
    """16 bits, and graphs being traced, stay with PyTorch's operations."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )
