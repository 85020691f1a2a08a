"""The most operations a second of the device that a rank computes on: of the table, else of a product that is measured.

    peak_of(torch.device("cuda"), "bf16")     # 312e12, "A100 data sheet"
    peak_of(torch.device("cpu"), "fp32")      # of this machine, "measured product"

(1) A GPU whose driver's name is in ``rates.py``: its dense rate, if it multiplies that type.
(2) Anything else, every CPU among it: two square matrices are multiplied again and again, as the rank will (its type, its
    threads); the fastest counts. What else the machine does meanwhile lowers it, and a utilisation above 1 says so.
(3) The number is kept in the user's cache folder, one for each device, type, number of threads and PyTorch.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple, Optional
from uuid import uuid4

import torch

from metaseq_plugin.ledger.rates import known_device
from metaseq_plugin.ledger.surroundings import cpu_model
from metaseq_plugin.storage import atomic

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MEASURED = "measured product"
SIDES = {"cpu": 512}  # of the matrices; a GPU needs larger ones to be busy
GPU_SIDE = 8192
SECONDS = 0.3  # of multiplying
FOLDER, FILE = "metaseq_plugin", "peaks.json"  # in the user's cache folder


class Peak(NamedTuple):
    """Operations a second of one device, and where the number is from."""

    flops: float
    source: str


def device_name(device: torch.device) -> str:
    """What its driver calls a GPU; of a CPU, its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def peak_of(device: torch.device, precision: str, cache: Optional[Path] = None) -> Peak:
    """The peak of ``device`` in ``precision`` ("fp32", "bf16" or "fp16").

    Args:
        cache: file of what was measured before; default: in the user's cache folder.
    """
    name = device_name(device)
    row = known_device(name) if device.type == "cuda" else None
    if row is not None and precision in row.tflops:
        return Peak(row.peak(precision), row.sources["tflops"])
    key = f"{name}, {precision}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    cache = cache_file() if cache is None else cache
    kept = {} if cache is None else read(cache)
    if key not in kept:
        kept[key] = product_rate(device, DTYPES[precision])
        if cache is not None:
            write(cache, kept)
    return Peak(kept[key], MEASURED)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of many products of two (n, n) matrices, 2·n³ each."""
    side = SIDES.get(device.type, GPU_SIDE)
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)

    def seconds() -> float:
        begin = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    seconds()  # the first one finds its kernel
    end = time.perf_counter() + SECONDS
    fastest = seconds()
    while time.perf_counter() < end:
        fastest = min(fastest, seconds())
    return 2.0 * side**3 / fastest


def cache_file() -> Optional[Path]:
    """None of a user without a home, as in a container of any user's number."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / FOLDER / FILE


def read(cache: Path) -> dict[str, float]:
    """What was measured before; nothing of a file that is not there, or not of this kind."""
    try:
        content = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: float(rate)
        for key, rate in content.items()
        if isinstance(rate, (int, float)) and 0 < rate < float("inf")
    }


def write(cache: Path, peaks: dict[str, float]) -> None:
    """Keep ``peaks`` where that is possible: it spares the next run a moment, no more."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        own = cache.with_name(f"{cache.name}.{uuid4().hex}{atomic.TEMPORARY_SUFFIX}")
        with atomic.replacing(cache, own) as unfinished:
            unfinished.write_text(json.dumps(peaks, indent=2), "utf-8")
    except OSError:
        return
