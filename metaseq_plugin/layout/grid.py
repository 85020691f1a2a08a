"""The ranks of a run as a grid: data parallelism down, tensor parallelism across.

    8 ranks, --model-parallel-size 2:

                 model part 0   model part 1
        shard 0    rank 0         rank 1        <- a tensor-parallel group: adjacent ranks, one batch
        shard 1    rank 2         rank 3
        shard 2    rank 4         rank 5
        shard 3    rank 6         rank 7
                     ^ a data-parallel group: strided ranks, each with batches of its own

Adjacent ranks lie on one machine, where links are fastest, and tensor parallelism talks most. ``build``
makes the grid, once torch.distributed is initialised; a run of one rank without it is ``SINGLE``.
"""

from typing import NamedTuple, Optional

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

DATA_AXIS, MODEL_AXIS = "dp", "tp"


class Grid(NamedTuple):
    """This rank's place. ``mesh`` is None in a run of one process without torch.distributed."""

    model_parallel_size: int = 1
    model_parallel_rank: int = 0
    data_parallel_size: int = 1
    data_parallel_rank: int = 0
    mesh: Optional[DeviceMesh] = None

    @property
    def model_group(self) -> Optional[dist.ProcessGroup]:
        """The ranks that hold the other parts of this rank's tensors; None means only this one."""
        return None if self.mesh is None else self.mesh.get_group(MODEL_AXIS)

    @property
    def data_group(self) -> Optional[dist.ProcessGroup]:
        """The ranks that hold the same model part; None means only this one."""
        return None if self.mesh is None else self.mesh.get_group(DATA_AXIS)

    @property
    def world_size(self) -> int:
        return self.model_parallel_size * self.data_parallel_size


SINGLE = Grid()


def build(model_parallel_size: int, device_type: str) -> Grid:
    """The grid of all ranks; a collective call."""
    num_shards = dist.get_world_size() // model_parallel_size
    mesh = init_device_mesh(
        device_type, (num_shards, model_parallel_size), mesh_dim_names=(DATA_AXIS, MODEL_AXIS)
    )
    row, column = divmod(dist.get_rank(), model_parallel_size)
    return Grid(model_parallel_size, column, num_shards, row, mesh)


def backend_device() -> str:
    """The device type that the initialised process group computes on."""
    return "cuda" if dist.get_backend() == "nccl" and torch.cuda.is_available() else "cpu"
