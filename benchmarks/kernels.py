"""Where the time of a GPU goes: shares by kind of kernel, and the share in which nothing runs on it.

    shares = shares_of(spans)           # from ``spans_of(update, updates=3)``, of a profiled run

A kernel's kind is told by its name. The idle share is that between the begin of the first kernel and the end of the
last in which none runs, whatever the streams: kernels that overlap count once.
"""

from typing import Callable, Dict, List, NamedTuple, Sequence

import torch

# The first kind one of whose words is in a kernel's name.
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa", "softmax_warp"),
    "matrix products": ("gemm", "cutlass", "cublas", "nvjet", "xmma", "_mm_", "splitk"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "loss": ("logsoftmax", "log_softmax", "softmax", "nll"),
    "communication": ("nccl",),
    "copies": ("memcpy", "memset", "copy", "fillfunctor"),
    "layer norm": ("layer_norm", "layernorm"),
    "embedding": ("embedding", "index", "gather"),
    "compiled": ("triton",),
}
IDLE, OTHER = "idle", "other"


class Span(NamedTuple):
    """One kernel; times in microseconds."""

    name: str
    begin: float
    end: float


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS.items() if any(w in lower for w in words)), OTHER)


def busy_time(spans: Sequence[Span]) -> float:
    """Microseconds in which at least one of ``spans`` runs."""
    busy, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin):
        busy += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return busy


def shares_of(spans: Sequence[Span]) -> Dict[str, float]:
    """Kind -> its share of the time from the first kernel to the last, the largest first, and ``idle``."""
    if not spans:
        return {}
    whole = max(span.end for span in spans) - min(span.begin for span in spans)
    seconds: Dict[str, float] = {}
    for span in spans:
        kind = kind_of(span.name)
        seconds[kind] = seconds.get(kind, 0.0) + span.end - span.begin
    shares = {
        kind: time / whole for kind, time in sorted(seconds.items(), key=lambda item: -item[1])
    }
    return {**shares, IDLE: 1.0 - busy_time(spans) / whole}


def spans_of(update: Callable[[], None], updates: int) -> List[Span]:
    """The kernels of so many updates in a row; none where there is no GPU."""
    if not torch.cuda.is_available():
        for _ in range(updates):
            update()
        return []
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(updates):
            update()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == device
    ]
