"""``y = x Wᵀ + b`` on the fastest fp32 kernel that this machine has for it.

Legend: N rows (tokens), I inputs, O outputs.

On CPUs ``F.linear`` hands fp32 matrix products to MKL. oneDNN, which PyTorch ships too and uses by
itself for 16-bit only, was measured against it on 2 cores of an AMD EPYC (Zen 5), torch 2.13, weights
out of cache, GB/s of weights read, 768 → 3072:

    rows                              1      4      8
    F.linear                         17.2   12.4   14.6
    oneDNN                           38.2   29.7   26.6
    oneDNN, weights stored as (I, O) 37.8   37.8   32.8

and GFLOP/s at 32 rows 131 against 255 and 291, at 2,048 rows 212 against 457 and 445. (Beside other
work on the machine the ratios at 8 rows grew to 5 and more.) Forward and backward together at 1,024
rows: 215 against 411. So ``linear`` calls oneDNN's operator, the one that ``torch.compile`` emits for
frozen models, and brings the operator's missing gradient.

A gradient's second factor is stored the other way round, (I, O), which oneDNN's kernels of AVX2 do not read well. On 2
cores of an AMD EPYC without AVX-512, torch 2.13, ms, least of 7 rounds of 12 weights:

    768 → 3072, rows                32     128     256     512
    y    F.linear | oneDNN   3.7 | 2.2   7.0 | 5.1  11.5 | 8.8  23.8 | 17.7
    dx   torch.mm | oneDNN   3.0 | 2.5   5.7 | 6.4   9.4 | 11.3 19.4 | 26.0
    dW   torch.mm | oneDNN   1.8 | 2.5   4.6 | 5.6   8.5 | 10.7 23.1 | 27.9
    3072 → 768
    dx   torch.mm | oneDNN   3.9 | 3.5   7.0 | 10.5 11.8 | 19.8 19.4 | 37.7
    dW   torch.mm | oneDNN   3.4 | 3.2   6.1 | 9.9  10.7 | 20.0 19.0 | 38.2

So gradients are ``torch.mm``'s there.

For decoding, which is a matter of reading weights, ``Linear.pack_`` puts them into oneDNN's own blocks. Without
blocks oneDNN reads (O, I) well at one row and less well at more, (I, O) the other way round. All matrices of the 125M, the
embedding packed too and blocks made for as many rows as there are, read once, ms, on 2 cores of an AMD EPYC (Zen 4,
AVX-512), torch 2.13, where summing as many bytes took 14 to 15:

    rows                  1      4      8
    F.linear             35.3   57.6   54.6
    (O, I)               26.8   26.0   30.1
    (I, O)               25.5   24.2   26.9
    packed               19.0   18.3   21.6
    packed, q, k, v one  17.2   17.4   20.7
    bf16, (O, I)         15.1   16.8   19.2

As they are shipped, blocks for 16 rows, on one of these cores beside other work (least CPU time of a matrix, added up),
the 12 layers and the embedding by themselves, ms:

    rows                                   1      4      8     16
    layers, packed                       28.7   28.8   34.5   42.5
    layers, packed, q, k, v one          28.6   28.3   34.0   42.0
    layers, bf16, packed                 13.8   13.9   16.8   21.1
    layers, bf16, packed, q, k, v one    12.7   11.2   14.1   18.6
    layers, int8 (torch's kernel)        11.6   15.2   23.6   40.8
    embedding, F.linear                  11.5   23.7   27.2   34.5
    embedding, (O, I)                     9.3   13.8   16.5   22.3
    embedding, packed                    11.5    9.5   12.3   16.3
    embedding, bf16, F.linear or (O, I)   8.6    9.4   10.6   13.7
    embedding, bf16, packed               5.7    5.6    6.9    9.0
    embedding, int8                       5.6    7.5   14.9   29.8

Where memory comes in pages of 2 MiB (``compat/huge_pages.py``), 2 cores of an AMD EPYC, q, k and v joined, the
least of 15 interleaved rounds, ms, in pages of 2 MiB | 4 KiB:

    rows                                   1             4             8
    layers, (O, I)                   11.3 | 14.0   18.2 | 18.7   21.6 | 21.8
    layers, packed                   13.5 | 16.8   11.3 | 14.4   14.7 | 17.3
    layers, packed, 1 row as 4       12.1 | 16.5
    embedding, (O, I)                 4.2 |  5.3    7.6 |  8.1    9.1 |  9.5
    embedding, packed                 4.6 |  6.5    3.6 |  4.8    5.1 |  6.1

So fewer than 4 rows are filled up, but not on CPUs of AVX2: on such an EPYC, quiet, the layers for one row took 18.3 ms, and
25.0 filled up. int8, which gains little on packed bf16 at one row and is slower at more, is not offered. A packed embedding would be a
second copy, since of blocks no row is to be had. What 16 bits hold exactly is packed otherwise (``half_weight.py``),
and CPUs of AVX2 read no blocks (``first_factor.py``).
"""

from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metaseq_plugin.modules import first_factor
from metaseq_plugin.modules.first_factor import FirstFactor
from metaseq_plugin.modules.first_factor import onednn_product as product
from metaseq_plugin.modules.half_weight import HAS_FBGEMM, HalfWeight, held

# Private operators, hence the check; present in every torch this package supports.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
# The rows that blocks are made for. Those made for one row are slower at many; these are as fast at one.
PACKED_FOR_ROWS = 16
CAPABILITY = torch.backends.cpu.get_cpu_capability()
IS_AVX2 = CAPABILITY == "AVX2"  # and no AVX-512
# Fewer are filled up with zeros, which the kernels of AVX2 do not gain by.
FEWEST_ROWS = 4 if "AVX512" in CAPABILITY else 1


# What multiplies by itself, and a weight as it is stored: that, or plain or in oneDNN's blocks.
Held = Union[HalfWeight, FirstFactor]
Stored = Union[Tensor, Held]


class OneDNNLinear(torch.autograd.Function):
    """``product`` with its gradient: dx = dy W, dW = dyᵀ x, db = Σ dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor
    ) -> tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = dy.reshape(-1, dy.size(-1))  # (N, O)
        dx = _gradient_product(rows, weight).view(x.shape) if needs_x else None  # (…, I)
        dweight = (
            _gradient_product(rows.t(), x.reshape(-1, x.size(-1))) if needs_weight else None
        )  # (O, I)
        return dx, dweight, rows.sum(0) if needs_bias else None


def _gradient_product(a: Tensor, b: Tensor) -> Tensor:
    """a (N, I), b (I, O) → a @ b (N, O), b not being stored as a weight is, which oneDNN's AVX2 kernels read badly."""
    return torch.mm(a, b) if IS_AVX2 else product(a, b.t())


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and not weight.is_mkldnn
        # DTensors, and graphs being traced, bring their own dispatch.
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


def matmul(a: Tensor, b: Tensor, room: Tensor) -> Tensor:
    """a (N, I), b (I, O) → a @ b (N, O), for code that takes care of gradients itself.

    The result may be in ``room`` (N, O) or not: oneDNN's operator returns a new tensor.
    """
    is_read_well = not IS_AVX2 or b.t().is_contiguous()
    return product(a, b.t()) if is_read_well and _suits_onednn(a, b) else torch.mm(a, b, out=room)


def linear(x: Tensor, weight: Stored, bias: Optional[Tensor] = None) -> Tensor:
    """x (…, I), weight (O, I), bias (O,) → (…, O); the same values as ``F.linear``.

    A packed weight has no gradient.
    """
    if not isinstance(weight, Tensor):
        return weight.product(x, bias)
    if _suits_onednn(x, weight):
        if torch.is_grad_enabled():
            return OneDNNLinear.apply(x, weight, bias)
        return (first_factor.product if IS_AVX2 else product)(x, weight, bias)
    return packed_product(x, weight, bias) if weight.is_mkldnn else F.linear(x, weight, bias)


def packed_product(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``product`` of a packed weight with as many rows as its blocks read fastest."""
    num_rows = x.size(0) if x.dim() == 2 else x[..., 0].numel()
    if num_rows >= FEWEST_ROWS:
        return product(x, weight, bias)
    rows = F.pad(x.reshape(num_rows, x.size(-1)), (0, 0, 0, FEWEST_ROWS - num_rows))
    return product(rows, weight, bias)[:num_rows].view(*x.shape[:-1], weight.size(0))


class Linear(nn.Linear):
    """``nn.Linear`` through ``linear``.

    Attributes:
        held: what has the values in place of ``weight``, which is then a shape without any. None: ``weight`` has them.
    """

    held: Optional[Held] = None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.stored_weight, self.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> "Linear":
        """``to``, ``half`` and the like: blocks are of one data type and of the CPU, so they are undone before."""
        if self.is_packed:
            self.hold_(self.dense_weight())
        super()._apply(fn, recurse)
        return self

    @property
    def stored_weight(self) -> Stored:
        """What to multiply by."""
        return self.weight if self.held is None else self.held

    @property
    def is_packed(self) -> bool:
        """Whether the weight is stored for decoding."""
        return self.held is not None or self.weight.is_mkldnn

    def dense_weight(self) -> Tensor:
        """The weight (O, I), out of its blocks."""
        return self.stored_weight.to_dense()

    def hold_(self, weight: Stored) -> None:
        """Have another weight, which cannot be trained."""
        self.held = None if isinstance(weight, Tensor) else weight
        if not isinstance(weight, Tensor):
            weight = torch.empty_like(self.weight, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)

    @torch.no_grad()
    def pack_(self) -> None:
        """Pack the weight where it can be; it cannot be trained afterwards."""
        if _can_be_packed(self.weight):
            self.hold_(pack(self.weight))
            self.register_state_dict_post_hook(_unpack)
            self.register_load_state_dict_pre_hook(unpack_to_load)


def pack(weight: Tensor) -> Stored:
    """weight (O, I) as it is read fastest, by ``linear`` only: in 16 bits where these hold it exactly, else as this CPU likes it.

    Of all kinds ``to_dense`` gives it back.
    """
    half = held(weight)
    if half is not None:
        return half
    if IS_AVX2:
        return FirstFactor(weight.clone())  # ``weight`` may lie in a file
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)


def computes_in(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products of weights in ``dtype``, and need not emulate them."""
    if dtype == torch.float16 and HAS_FBGEMM:
        return True
    if dtype == torch.float32 or not HAS_ONEDNN:
        return dtype == torch.float32
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported()


def unpack_to_load(module: nn.Module, *_: Any) -> None:
    """Hook of modules whose ``_apply`` unpacks: of new values, a shape without any would take none, and say nothing."""
    module._apply(lambda tensor: tensor)


def _can_be_packed(weight: Tensor) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and not weight.is_mkldnn
        and HAS_ONEDNN
        and weight.dtype in (torch.float32, torch.bfloat16)
        and computes_in(weight.dtype)
    )


def _unpack(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    assert isinstance(module, Linear), "the hook is of packed layers"
    if module.is_packed:
        state[prefix + "weight"] = module.dense_weight()
