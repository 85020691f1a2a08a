"""Some ranks of a large run, without the others and without memory: fake process groups, meta tensors.

    held = on_ranks([0, 991], layout, function, …)    # [function(grid, …) as rank 0, as rank 991]

Collectives of the fake group (PyTorch's own) return at once and move nothing, which is all that
building, cutting and sharding need.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, Sequence, TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from metaseq_plugin.distributed import fully_sharded, tensor_parallel
from metaseq_plugin.layout.grid import Grid, build
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.models.opt import OPTDecoder, OPTLanguageModel
from tests.opt_models import config, dictionary

TIMEOUT_SECONDS = 600  # 175B takes half a minute on one core that it has for itself

Result = TypeVar("Result")


def _child(ranks: Sequence[int], layout: Layout, function: Callable[..., Any], *args: Any) -> Any:
    results = []
    for rank in ranks:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.num_ranks)
        results.append(function(build(layout.model_parallel_size, "cpu"), *args))
        dist.destroy_process_group()
    return results


def on_ranks(
    ranks: Sequence[int], layout: Layout, function: Callable[..., Result], *args: Any
) -> list[Result]:
    """``function(grid, *args)`` as each of ``ranks``, in a forked child that keeps the groups to itself."""
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=fork) as child:
        running = child.submit(_child, ranks, layout, function, *args)
        return running.result(TIMEOUT_SECONDS)


def sharded_model(ranks: Grid, name: str, vocab_size: int) -> OPTLanguageModel:
    """What this rank holds of the size ``name``: built, cut and sharded as in a run."""
    with torch.device("meta"):
        model = OPTLanguageModel(OPTDecoder(config(f"opt_{name}"), dictionary(vocab_size)))
    if ranks.model_parallel_size > 1:
        tensor_parallel.cut(model, ranks, sequence_parallel=False)
    fully_sharded.cut_shards(model, ranks, torch.bfloat16)
    return model
