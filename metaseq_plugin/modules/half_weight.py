"""Weights held in 16 bits and multiplied in 32: half the bytes to read, on CPUs without 16-bit products too.

    if is_exact(weight):              # every number is one of float16's, as in all of OPT's releases
        half = HalfWeight(weight)
        y = half.product(x, bias)     # what float32 gives, in another order of sums

FBGEMM, which PyTorch ships, widens each number on its way from the cache into the product; every CPU that it runs on
(AVX2 and later) has an instruction for it, so nothing is emulated. Decoding waits for weights to be read. The matrices
of the 125M's 12 layers, q, k and v one, read once, the least of 12 interleaved rounds, ms, 2 cores of an AMD EPYC with AVX2
only, torch 2.13, pages of 2 MiB, where a sum over as many bytes of float32 took 13.1 to 13.3:

    rows                              1      8
    oneDNN's blocks, float32       18.3   25.9
    FBGEMM, held in float16        11.6   19.8

Beside other work on the machine it took from 0.25 to 0.96 of the blocks' time at all numbers of rows from 1 to 1,024.

FBGEMM's int8 took 6.9 and 10.1, but it measures one scale for the activations of all rows together: what a row is given
would depend on the others. PyTorch's product of int8 weights and float32 (``_weight_int8pack_mm``) took 74 and 835.
Neither is offered.

Legend: I inputs, O outputs of a layer.
"""

from typing import Optional

import torch
from torch import Tensor

from metaseq_plugin.layout.fit import largest

HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines and all(
    hasattr(torch.ops.quantized, name)
    for name in ("linear_prepack_fp16", "linear_dynamic_fp16", "linear_unpack_fp16")
)


class HalfWeight:
    """A weight (O, I) of float32 on a CPU, in FBGEMM's 16-bit blocks. What float16 cannot hold has been refused before."""

    def __init__(self, weight: Tensor) -> None:
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
        self.num_outputs = weight.size(0)

    def product(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """x (…, I) fp32, bias (O,) → (…, O) fp32, without a gradient."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.num_outputs)
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return y if bias is None else y.add_(bias)

    def to_dense(self) -> Tensor:
        """The weight (O, I) in fp32, bit by bit as it was."""
        weight: Tensor = torch.ops.quantized.linear_unpack_fp16(self.packed)[0]
        return weight


def is_exact(weight: Tensor) -> bool:
    """Whether ``HalfWeight`` holds ``weight`` (O, I) without rounding, and this CPU can multiply it."""
    if not HAS_FBGEMM or weight.dtype != torch.float32 or weight.numel() == 0:
        return False
    # The first row tells most of those that are not, without a copy of all. Of infinity FBGEMM makes 65,504.
    is_same = all(torch.equal(part.half().float(), part) for part in (weight[:1], weight))
    return is_same and largest(weight) < torch.inf
