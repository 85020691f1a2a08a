"""Weights as the first factor of their product, for few rows on CPUs with AVX2 and no AVX-512.

    y = FirstFactor(weight).product(x, bias)    # (W xᵀ)ᵀ + b: what F.linear gives, in another order of sums

oneDNN's kernels of AVX2 read a matrix row by row faster as the factor that has many rows than as the one that is shared by
them, in its own blocks or not. The matrices of the 125M's 12 layers, q, k and v one, read once, and its head; the least of
9 and 7 interleaved rounds, ms, 2 cores of an AMD EPYC with AVX2 only, torch 2.13, pages of 2 MiB:

    rows                        1      2      3      4      6      8     12     16     32     64    128
    layers, F.linear's order  23.9   36.2   37.2   33.0   37.3   41.5   44.6   50.0   62.3  103.6  194.2
    layers, blocks            27.9   28.2   31.2   29.0   31.8   40.5   41.3   49.9   56.0   98.9  180.4
    layers, first factor      23.7   32.0   30.5   26.0   27.3   30.1   48.4   36.8   50.9  100.9  190.0
    head, F.linear's order     9.5   19.1          14.2          17.6   21.4   20.0   29.9   42.5
    head, blocks              12.5   13.3          11.8          13.8   17.6   17.3   28.3   37.9
    head, first factor         9.7   16.7          11.0          11.5   16.9   12.6   21.2   36.1

So rows are filled up to 4, or to a multiple of 8, and more than 32 are multiplied in the usual order. Nothing is stored
anew. What 16 bits hold is faster still (``half_weight.py``).

Legend: R rows, I inputs, O outputs of a layer.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_ROWS = 32


class FirstFactor:
    """A weight (O, I) of float32 on a CPU, as it is; the tensor itself is kept."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def product(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """As ``product``."""
        return product(x, self.weight, bias)

    def to_dense(self) -> Tensor:
        """The weight (O, I)."""
        return self.weight


def onednn_product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x (…, I), weight (O, I), of any strides or packed, bias (O,) → (…, O), on oneDNN, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x (…, I), weight (O, I), bias (O,) → x Wᵀ + b (…, O), all fp32, without a gradient."""
    rows = x.reshape(-1, x.size(-1))  # (R, I)
    count = rows.size(0)
    if count == 0:
        return F.linear(x, weight, bias)
    if count > MOST_ROWS:
        return onednn_product(x, weight, bias)
    filled = F.pad(rows, (0, 0, 0, _filled(count) - count))
    y = onednn_product(weight, filled)[:, :count].t()  # (R, O)
    y = y.contiguous() if bias is None else torch.add(y, bias, out=rows.new_empty(y.shape))
    return y.view(*x.shape[:-1], y.size(1))


def _filled(count: int) -> int:
    """Rows for which there are kernels that leave no rest."""
    if count <= 4:
        return 1 if count == 1 else 4
    return -(-count // 8) * 8
