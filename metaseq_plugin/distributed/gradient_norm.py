"""The norm of the whole model's gradient, from what each rank holds of it, every element once.

    ‖g‖² = Σ over shards and model parts ‖g_cut‖² + Σ over shards ‖g_whole‖²

A parameter that tensor parallelism does not cut has the same gradient on every model part; part 0
counts it. One all-reduce of one number.
"""

from typing import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.held import is_model_part, local
from metaseq_plugin.layout.shards import is_shard


@torch.no_grad()
def total_norm(params: Sequence[Tensor], grid: Grid) -> Tensor:
    """The L2 norm, () fp32, of the gradients of all the model, the same on all ranks; collective.

    Args:
        params: those of this rank; without a gradient they do not count.
        grid: its place among the ranks.
    """
    counted = [
        local(p.grad)
        for p in params
        if p.grad is not None and (grid.model_parallel_rank == 0 or is_model_part(p))
    ]
    device = next((local(p).device for p in params), torch.device("cpu"))
    norm = torch.zeros((), device=device)
    if counted:
        norms = torch._foreach_norm(counted, 2, dtype=torch.float32)
        norm = torch.linalg.vector_norm(torch.stack(norms))
    is_sharded = any(is_shard(p) for p in params)
    if grid.mesh is None or (grid.model_parallel_size == 1 and not is_sharded):
        return norm
    square = norm.square().to(grid.mesh.device_type)
    dist.all_reduce(square, group=None if is_sharded else grid.model_group)
    return square.sqrt().to(device)
