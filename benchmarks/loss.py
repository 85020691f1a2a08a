"""Output projection with loss: ours against fairseq's ``cross_entropy`` and against three bare products.

    python -m benchmarks.loss --tokens 2048 --dim 768 --vocab 50272 --device cpu

N tokens, D model dim, V vocab. The contenders take turns (``benchmarks/turns.py``):
(1) bare products: X Wᵀ, G W and Gᵀ X by ``torch.mm``, into buffers that exist already: no loss beats
    this unless by a faster kernel (ours has oneDNN for two of the three on CPUs in fp32);
(2) fairseq: F.linear, then what its criterion does (log_softmax in fp32, nll_loss), and backward;
(3) ours: ``chunked_cross_entropy`` and backward.

Time is the shortest of the rounds. Memory is the peak above the process with its inputs; dX and dW
count, in all three.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.turns import (
    Round,
    add_machine_options,
    machine,
    parse_options,
    take_turns,
)
from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy

PAD = 1
BARE, FAIRSEQ, OURS = "bare products", "fairseq cross_entropy", "chunked_cross_entropy"


def prepare(name: str, options: argparse.Namespace) -> Round:
    """One round of ``name`` over features (N, D), weight (V, D), target (N,)."""
    torch.manual_seed(0)
    kind = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    x = torch.randn(options.tokens, options.dim, **kind, requires_grad=True)
    weight = torch.randn(options.vocab, options.dim, **kind).mul_(0.02).requires_grad_()
    target = torch.randint(2, options.vocab, (options.tokens,), device=options.device)
    if name == BARE:
        return bare_products(x.detach(), weight.detach())

    def loss() -> Tensor:
        if name == OURS:
            return chunked_cross_entropy(x, weight, target, PAD, options.chunk_tokens)
        lprobs = torch.log_softmax(F.linear(x, weight), dim=-1, dtype=torch.float32)
        return F.nll_loss(lprobs, target, ignore_index=PAD, reduction="sum")

    def forward_and_backward() -> None:
        x.grad = weight.grad = None
        loss().backward()

    return forward_and_backward


def bare_products(x: Tensor, weight: Tensor) -> Round:
    logits, dx, dw = x.new_empty(len(x), len(weight)), x.clone(), weight.clone()

    def products() -> None:
        torch.mm(x, weight.t(), out=logits)
        torch.mm(logits, weight, out=dx)
        torch.mm(logits.t(), x, out=dw)

    return products


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in the batch, N")
    parser.add_argument("--dim", type=int, default=768, help="model dimension, D")
    parser.add_argument("--vocab", type=int, default=50272, help="columns of the logits, V")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="as --loss-chunk-tokens")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contender")
    add_machine_options(parser)
    options = parse_options(parser)
    results = take_turns(prepare, [BARE, FAIRSEQ, OURS], options, options.rounds)

    # Inputs belong to no contender.
    inputs = (options.vocab + options.tokens) * options.dim * getattr(torch, options.dtype).itemsize
    print(f"{options.tokens} tokens x {options.dim} x {options.vocab}, {machine(options)}")
    print(f"{'':24}{'seconds':>9}{'x bare':>8}{'peak MB':>9}{'x fairseq':>11}")
    for name, result in results.items():
        peak = result.peak_bytes - inputs
        print(
            f"{name:24}{result.best:9.3f}{result.best / results[BARE].best:8.2f}"
            f"{peak / 1e6:9.0f}{peak / (results[FAIRSEQ].peak_bytes - inputs):11.3f}"
        )


if __name__ == "__main__":
    main()
