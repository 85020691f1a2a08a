"""Tensor parallelism by plain local tensors (ours) beside DTensor's ``parallelize_module``.

B batch, T tokens, D model dim. Both cut the layers of one decoder, without embeddings and loss: the same
columns and rows of the same weights, the same four all-reduces a layer. A round is forward and backward
of (B, T, D) through all layers. Contenders take turns in the same ranks, and must compute the same.

The third contender is ours without oneDNN, whose kernel our linear layers use on CPU and DTensor's
cannot: it tells the kernel's share from DTensor's own cost.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from metaseq_plugin.layout.grid import MODEL_AXIS, Grid, build

DTENSOR, OURS, OURS_PLAIN = "DTensor", "ours", "ours without oneDNN"


def build_decoder(arch: str) -> Any:
    """An OPT of ``arch``'s layers with a small vocabulary, where the default device is."""
    from fairseq.data import Dictionary
    from omegaconf import OmegaConf

    from metaseq_plugin.models.opt import OPTConfig, OPTDecoder, OPTLanguageModel
    from metaseq_plugin.sizes import fill_size

    cfg = OmegaConf.structured(OPTConfig(dropout=0.0, attention_dropout=0.0))
    fill_size(cfg, arch)
    dictionary = Dictionary()
    dictionary.pad_to_multiple_(64)
    return OPTLanguageModel(OPTDecoder(cfg, dictionary))


def cut_by_us(arch: str, grid: Grid) -> nn.ModuleList:
    from metaseq_plugin.distributed import tensor_parallel
    from metaseq_plugin.distributed.fully_sharded import initialise
    from metaseq_plugin.layout.held import give_memory

    with torch.device("meta"):
        model = build_decoder(arch)
    tensor_parallel.cut(model, grid, sequence_parallel=False)
    give_memory(model, "cpu")
    initialise(model)
    layers: nn.ModuleList = model.decoder.layers
    return layers


def cut_by_dtensor(arch: str, grid: Grid) -> nn.ModuleList:
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    assert grid.mesh is not None
    layers: nn.ModuleList = build_decoder(arch).decoder.layers
    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "fc1")
    rows = ("self_attn.out_proj", "fc2")
    for layer in layers:
        plan: Dict[str, Any] = {name: ColwiseParallel() for name in columns}
        plan |= {name: RowwiseParallel() for name in rows}
        # Our ReLU works in place, which autograd forbids on the local view that DTensor would give.
        plan["fc1"] = ColwiseParallel(use_local_output=False)
        parallelize_module(layer, grid.mesh[MODEL_AXIS], plan)
    return layers


def one_round(layers: nn.ModuleList, x: Tensor) -> Tuple[float, Tensor, Tensor]:
    """(seconds, output, gradient of x)."""
    x = x.clone().requires_grad_()
    layers.zero_grad()
    dist.barrier()
    start = time.perf_counter()
    y = x
    for layer in layers:
        y = layer(y, None, None)
    y.square().mean().backward()
    seconds = time.perf_counter() - start
    assert x.grad is not None
    return seconds, y.detach(), x.grad


def rank_main(rank: int, num_ranks: int, folder: str, options: argparse.Namespace) -> None:
    import metaseq_plugin  # noqa: F401  registers everything
    from metaseq_plugin.models.opt import SIZES
    from metaseq_plugin.modules import linear

    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num_ranks)
    grid = build(num_ranks, "cpu")
    torch.manual_seed(1)  # weights follow from it, in any layout
    builders: Dict[str, Callable[[str, Grid], nn.ModuleList]] = {
        DTENSOR: cut_by_dtensor,
        OURS: cut_by_us,
    }
    built = {name: cut(options.arch, grid) for name, cut in builders.items()}
    built[OURS_PLAIN] = built[OURS]
    dim = SIZES[options.arch.removeprefix("opt_")].embed_dim
    x = torch.randn(options.batch_size, options.tokens_per_sample, dim)
    has_onednn = linear.HAS_ONEDNN
    seconds: Dict[str, List[float]] = {name: [] for name in built}
    for number in range(options.updates + 1):
        seen = {}
        for name, layers in built.items():
            linear.HAS_ONEDNN = has_onednn and name != OURS_PLAIN
            taken, *seen[name] = one_round(layers, x)
            if number > 0:  # the first round warms up
                seconds[name].append(taken)
        for name in (OURS, OURS_PLAIN):
            torch.testing.assert_close(seen[name], seen[DTENSOR])
    if rank == 0:
        torch.save(seconds, Path(folder) / "seconds")
    dist.barrier()
    dist.destroy_process_group()


def compare(num_ranks: int, options: argparse.Namespace) -> List[str]:
    """Rows of a table: medians, and the median of the ratios of one round."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, (num_ranks, folder, options), nprocs=num_ranks)
        seconds: Dict[str, List[float]] = torch.load(Path(folder) / "seconds")
    rows = [
        f"| {options.arch}'s layers, {options.batch_size} x {options.tokens_per_sample} tokens, "
        f"{num_ranks} ranks | seconds | DTensor takes more by |",
        "| --- | ---: | ---: |",
    ]
    for name, taken in seconds.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(seconds[DTENSOR], taken))
        rows.append(f"| {name} | {statistics.median(taken):.3f} | {ratio:.2f} |")
    return rows
