"""Output projection with loss: ours against fairseq's ``cross_entropy`` and against three bare products.

    python benchmarks/loss.py --tokens 2048 --dim 768 --vocab 50272 --device cpu

N tokens, D model dim, V vocab. Each contender runs in its own child process, so that peaks do not
mix; the parent lets them take turns, so that a busy machine slows all alike.
(1) bare: X Wᵀ, G W and Gᵀ X, into buffers that exist already: what no loss can beat;
(2) fairseq: F.linear, then what its criterion does (log_softmax in fp32, nll_loss), and backward;
(3) ours: ``chunked_cross_entropy`` and backward.

Time is the shortest of the rounds. Memory is the peak above what the process holds before the first
round (inputs, and for all the same libraries): the high-water mark of the resident set on CPU,
``torch.cuda.max_memory_allocated`` on CUDA. dX and dW count, in all three.
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy

PAD = 1
CONTENDERS = ("bare products", "fairseq cross_entropy", "chunked_cross_entropy")


def contender(
    name: str, x: Tensor, weight: Tensor, target: Tensor, chunk: int
) -> Callable[[], None]:
    """One round of ``name`` over features (N, D), weight (V, D), target (N,)."""
    if name == "bare products":
        x, weight = x.detach(), weight.detach()
        logits, dx, dw = x.new_empty(len(x), len(weight)), x.clone(), weight.clone()

        def products() -> None:
            torch.mm(x, weight.t(), out=logits)
            torch.mm(logits, weight, out=dx)
            torch.mm(logits.t(), x, out=dw)

        return products

    def loss() -> Tensor:
        if name == "chunked_cross_entropy":
            return chunked_cross_entropy(x, weight, target, PAD, chunk)
        lprobs = torch.log_softmax(F.linear(x, weight), dim=-1, dtype=torch.float32)
        return F.nll_loss(lprobs, target, ignore_index=PAD, reduction="sum")

    def forward_and_backward() -> None:
        x.grad = weight.grad = None
        loss().backward()

    return forward_and_backward


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have {field}, but has not")


def child(pipe: Connection, name: str, options: argparse.Namespace) -> None:
    """Do a round and answer (seconds, peak bytes) for each message that arrives."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    x = torch.randn(options.tokens, options.dim, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(options.vocab, options.dim, device=device).mul_(0.02).to(dtype)
    weight.requires_grad_()
    target = torch.randint(2, options.vocab, (options.tokens,), device=device)
    torch.mm(x.detach()[:64], x.detach()[:64].t())  # the libraries' own buffers
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
    else:
        before = resident_bytes("VmRSS")
    run = contender(name, x, weight, target, options.chunk_tokens)
    while pipe.recv():
        start = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if is_cuda else resident_bytes("VmHWM")
        pipe.send((seconds, peak - before))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in the batch, N")
    parser.add_argument("--dim", type=int, default=768, help="model dimension, D")
    parser.add_argument("--vocab", type=int, default=50272, help="columns of the logits, V")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="as --loss-chunk-tokens")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contender")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in CONTENDERS:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=child, args=(theirs, name, options), daemon=True))
        processes[-1].start()
    seconds = {name: float("inf") for name in CONTENDERS}
    peak_bytes = dict.fromkeys(CONTENDERS, 0)
    for _ in range(options.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            elapsed, peak_bytes[name] = pipe.recv()
            seconds[name] = min(seconds[name], elapsed)
    for pipe in pipes.values():
        pipe.send(False)

    bare, fairseq, _ = CONTENDERS
    print(f"{options.tokens} tokens x {options.dim} x {options.vocab}, {options.dtype} on "
          f"{options.device}, {options.threads} threads, torch {torch.__version__}")  # fmt: skip
    print(f"{'':24}{'seconds':>9}{'x bare':>8}{'peak MB':>9}{'x fairseq':>11}")
    for name in CONTENDERS:
        print(
            f"{name:24}{seconds[name]:9.3f}{seconds[name] / seconds[bare]:8.2f}"
            f"{peak_bytes[name] / 1e6:9.0f}{peak_bytes[name] / peak_bytes[fairseq]:11.3f}"
        )


if __name__ == "__main__":
    main()
