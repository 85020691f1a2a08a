"""How a training run is laid out over its ranks, from fairseq's flags to the model that trains.

    torchrun --nproc_per_node 4 $(which fairseq-train) DATA --user-dir metaseq_plugin --arch opt_125m \\
        --ddp-backend fully_sharded --use-sharded-state --model-parallel-size 2 …

The steps, each called by the host (``metaseq_plugin/host.py``) or by the task:
(1) ``make_groups``, when fairseq initialises torch.distributed for several model parts: the grid;
(2) ``prepare``, before fairseq's ``main``: the grid otherwise, and what the flags ask for, as a ``Run``;
(3) ``Run.building``, around the task's ``build_model``: on the meta device;
(4) ``Run.distribute``, right after it: the tensor-parallel cut, and memory and initial weights where FSDP gives none;
(5) ``Run.wrap``, where fairseq wraps the model in FSDP: the shards.
Without any of the flags a run of one process has the same model as with them, whole.

A process takes part in one run at a time, the ``current`` one; ``reset`` forgets it.
"""

import logging
from typing import Any, ContextManager, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from metaseq_plugin.distributed import tensor_parallel
from metaseq_plugin.distributed.fully_sharded import FullyShardedModel, cut_shards, initialise
from metaseq_plugin.distributed.option_checks import is_sharded
from metaseq_plugin.layout.grid import SINGLE, Grid, backend_device, build
from metaseq_plugin.layout.held import give_memory

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A run as this rank sees it: its place among the ranks, and what the flags ask for."""

    grid: Grid = SINGLE
    is_fully_sharded: bool = False
    compute_dtype: torch.dtype = torch.float32
    use_sharded_state: bool = False
    reshard_after_forward: bool = True
    cpu_offload: bool = False

    def building(self) -> ContextManager[Any]:
        """The device to build the model on: none at all. Its parts get memory, and their values, later.

        Else torch would draw values of its own first, tensor by tensor.
        """
        return torch.device("meta")

    def distribute(self, model: Any, sequence_parallel: bool) -> None:
        """Cut ``model``, just built, for this rank's part, and give it memory unless ``wrap`` will."""
        if self.grid.model_parallel_size > 1:
            tensor_parallel.cut(model, self.grid, sequence_parallel)
        if not self.is_fully_sharded:
            give_memory(model, "cpu")  # fairseq's trainer moves it to its device
            initialise(model)

    def wrap(self, model: nn.Module) -> FullyShardedModel:
        """Cut ``model``, an OPT on the meta device, over the data-parallel ranks and give it its weights."""
        on_gpu = backend_device() == "cuda"
        if self.cpu_offload and not on_gpu:
            logger.warning(
                "--cpu-offload has no effect on a CPU: everything is in its memory already"
            )
        offload = self.cpu_offload and on_gpu
        cut_shards(model, self.grid, self.compute_dtype, self.reshard_after_forward, offload)
        sharded = FullyShardedModel(model, self.grid, self.use_sharded_state)
        give_memory(model, "cpu" if offload else sharded.device.type)
        initialise(model)
        return sharded


class _Process:
    """What this process takes part in."""

    run = Run()


def current() -> Run:
    """The run of this process; one of a single rank until it is laid out."""
    return _Process.run


def reset() -> None:
    """Forget the run of this process."""
    _Process.run = Run()


def make_groups(model_parallel_size: int) -> None:
    """Put all ranks in a grid; collective, once torch.distributed is initialised."""
    _Process.run = Run(build(model_parallel_size, backend_device()))


def prepare(cfg: Any) -> None:
    """Take fairseq's flags of a training run of an OPT; collective where there are several ranks.

    ``--bf16`` with fully_sharded is taken out of fairseq's hands: its trainer refuses the pair, which
    FairScale could not do, and FSDP2 keeps fp32 master weights by itself. So is
    ``--write-checkpoints-asynchronously``, for which fairseq wants iopath and, without it, ends the run
    as if it had trained.
    """
    distributed = cfg.distributed_training
    if cfg.checkpoint.write_checkpoints_asynchronously:
        cfg.checkpoint.write_checkpoints_asynchronously = False
        if distributed.distributed_rank == 0:
            logger.warning(
                "--write-checkpoints-asynchronously has no effect: a set is written at once"
            )
    sharded = is_sharded(cfg)
    if sharded and not dist.is_initialized():
        on_gpu = torch.cuda.is_available() and not cfg.common.cpu
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if dist.is_initialized() and current().grid is SINGLE:
        make_groups(1)

    dtype = torch.float16 if cfg.common.fp16 else torch.float32
    if sharded and cfg.common.bf16:
        dtype = torch.bfloat16
        cfg.common.bf16 = False
    # One master copy for each parameter, so that a checkpoint can be cut anew.
    cfg.common.fp16_no_flatten_grads = True
    _Process.run = Run(
        grid=current().grid,
        is_fully_sharded=sharded,
        compute_dtype=dtype,
        use_sharded_state=distributed.use_sharded_state,
        reshard_after_forward=not distributed.no_reshard_after_forward,
        cpu_offload=distributed.cpu_offload,
    )
