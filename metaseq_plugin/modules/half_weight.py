"""Weights held in 16 bits and multiplied in 32: half the bytes to read, on CPUs without 16-bit products too.

    half = held(weight)               # None if 16 bits cannot hold every number exactly
    y = half.product(x, bias)         # what float32 gives, in another order of sums

They hold a matrix that was saved in float16, as all of OPT's releases were, and, times a power of two, one that was saved in
bfloat16, as ``--bf16`` saves them: of 8 significant bits, numbers down to 2**-31 of the largest.

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

import math
from typing import Optional

import torch
from torch import Tensor

from metaseq_plugin.layout.fit import largest

HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines and all(
    hasattr(torch.ops.quantized, name)
    for name in ("linear_prepack_fp16", "linear_dynamic_fp16", "linear_unpack_fp16")
)

PART_ROWS = 1024  # of a weight, looked at together
LEAST_EXPONENT = -100  # of the largest number; below it the power of two would be none of float32's


class HalfWeight:
    """A weight (O, I) of float32 on a CPU, in FBGEMM's 16-bit blocks. What they cannot hold is not for it: see ``held``."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        scaled = (
            weight if scale == 1.0 else weight * scale
        )  # a copy of a large matrix is not made in vain
        self.packed = torch.ops.quantized.linear_prepack_fp16(scaled.contiguous(), None)
        self.num_outputs, self.scale = weight.size(0), scale

    def product(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """x (…, I) fp32, bias (O,) → (…, O) fp32, without a gradient."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.num_outputs)
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return y.div_(self.scale) if bias is None else torch.add(bias, y, alpha=1 / self.scale)

    def to_dense(self) -> Tensor:
        """The weight (O, I) in fp32, bit by bit as it was."""
        weight: Tensor = torch.ops.quantized.linear_unpack_fp16(self.packed)[0]
        return weight.div_(self.scale)


def held(weight: Tensor) -> Optional[HalfWeight]:
    """``weight`` (O, I) in 16 bits; None where these would round it, or where this CPU cannot multiply it."""
    if not HAS_FBGEMM or weight.dtype != torch.float32 or weight.numel() == 0:
        return None
    top = largest(weight)
    if not top < torch.inf:  # of infinity FBGEMM makes 65,504
        return None
    # Times the second, the largest number has float16's largest exponent but one: more could round up to infinity.
    exponent = max(math.frexp(top)[1], LEAST_EXPONENT)
    for scale in (1.0, 2.0 ** (15 - exponent)):
        # By parts, most of those that are rounded are known by the first, and no copy is made of all.
        if all(_is_exact(part, scale) for part in weight.split(PART_ROWS)):
            return HalfWeight(weight, scale)
    return None


def _is_exact(part: Tensor, scale: float) -> bool:
    return torch.equal((part * scale).half().float() / scale, part)
