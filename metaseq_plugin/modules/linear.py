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
``store_for_decoding_`` changes the memory layout of weights, not their shapes or values.
"""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# A private operator, hence the check; present in every torch this package supports.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x (…, I), weight (O, I) of any strides, bias (O,) → (…, O), on oneDNN, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


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
        dx = product(dy, weight.t()) if needs_x else None  # (…, I)
        dweight = (
            product(rows.t(), x.reshape(-1, x.size(-1)).t()) if needs_weight else None
        )  # (O, I)
        return dx, dweight, rows.sum(0) if needs_bias else None


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
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
    return product(a, b.t()) if _suits_onednn(a, b) else torch.mm(a, b, out=room)


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x (…, I), weight (O, I), bias (O,) → (…, O); the same values as ``F.linear``."""
    if _suits_onednn(x, weight):
        return (
            OneDNNLinear.apply(x, weight, bias)
            if torch.is_grad_enabled()
            else product(x, weight, bias)
        )
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` through ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@torch.no_grad()
def store_for_decoding_(model: nn.Module) -> None:
    """Store every CPU matrix of ``model`` input-major, (I, O), under its old shape (O, I).

    State dicts, shapes and values stay; no second copy is kept. Token embeddings are included, since
    they are output projections too.
    """
    if not HAS_ONEDNN:
        return
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            weight = module.weight
            if weight.device.type == "cpu" and weight.is_contiguous():
                weight.data = weight.data.t().contiguous().t()
