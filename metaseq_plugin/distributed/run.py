"""How a training run is laid out over its ranks, from fairseq's flags to the model that trains.

    torchrun --nproc_per_node 4 $(which fairseq-train) DATA --user-dir metaseq_plugin --arch opt_125m \\
        --ddp-backend fully_sharded --use-sharded-state --model-parallel-size 2 …

The steps, each called from a seam or from the task:
(1) ``prepare``, before fairseq's ``main``: check the layout, make the grid, note the compute type;
(2) ``building``, around the task's ``build_model``: on the meta device, if anything will be cut;
(3) ``distribute``, right after it: the tensor-parallel cut;
(4) ``wrap``, where fairseq wraps the model in FSDP: the shards.
Without any of the flags nothing here changes a run of one process.
"""

import logging
from contextlib import nullcontext
from typing import Any, ContextManager, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from metaseq_plugin.distributed import tensor_parallel
from metaseq_plugin.distributed.fully_sharded import FullyShardedModel, initialise, shard
from metaseq_plugin.layout import grid
from metaseq_plugin.layout.held import give_memory
from metaseq_plugin.layout.layout import FULLY_SHARDED

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """What the flags ask for, beside the grid."""

    is_fully_sharded: bool = False
    compute_dtype: torch.dtype = torch.float32

    @property
    def is_cut(self) -> bool:
        """Whether a rank will hold less than the whole model."""
        return self.is_fully_sharded or grid.current().model_parallel_size > 1


_runs = [Run()]  # the current one is the last


def prepare(cfg: Any) -> None:
    """Take fairseq's flags of a training run of an OPT; collective where there are several ranks.

    ``--bf16`` with fully_sharded is taken out of fairseq's hands: its trainer refuses the pair, which
    FairScale could not do, and FSDP2 keeps fp32 master weights by itself. So is
    ``--write-checkpoints-asynchronously``, for which fairseq wants iopath and, without it, ends the run
    as if it had trained.
    """
    if cfg.checkpoint.write_checkpoints_asynchronously:
        cfg.checkpoint.write_checkpoints_asynchronously = False
        if cfg.distributed_training.distributed_rank == 0:
            logger.warning(
                "--write-checkpoints-asynchronously has no effect: a set is written at once"
            )
    is_sharded = cfg.distributed_training.ddp_backend == FULLY_SHARDED
    if is_sharded and not dist.is_initialized():
        on_gpu = torch.cuda.is_available() and not cfg.common.cpu
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if dist.is_initialized() and grid.current() is grid.SINGLE:
        grid.build(1, grid.backend_device())

    dtype = torch.float16 if cfg.common.fp16 else torch.float32
    if is_sharded and cfg.common.bf16:
        dtype = torch.bfloat16
        cfg.common.bf16 = False
    # One master copy for each parameter, so that a checkpoint can be cut anew.
    cfg.common.fp16_no_flatten_grads = True
    _runs.append(Run(is_sharded, dtype))


def shards_here() -> bool:
    """Whether this process is in a run of ours with --ddp-backend fully_sharded."""
    return _runs[-1].is_fully_sharded


def building() -> ContextManager[Any]:
    """The device to build the model on: none at all, if parts of it will get their memory later."""
    return torch.device("meta") if _runs[-1].is_cut else nullcontext()


def distribute(model: Any, sequence_parallel: bool) -> None:
    """Cut ``model``, just built, for this rank's model part, and give it memory unless ``wrap`` will."""
    ranks = grid.current()
    if ranks.model_parallel_size > 1:
        tensor_parallel.cut(model, ranks, sequence_parallel)
    if _runs[-1].is_cut and not _runs[-1].is_fully_sharded:
        give_memory(model, "cpu")  # fairseq's trainer moves it to its device
        initialise(model)


def wrap(model: nn.Module, cfg: Any) -> FullyShardedModel:
    """Shard ``model``; ``cfg`` is fairseq's ``distributed_training``."""
    on_gpu = grid.backend_device() == "cuda"
    if cfg.cpu_offload and not on_gpu:
        logger.warning("--cpu-offload has no effect on a CPU: everything is in its memory already")
    return shard(
        model,
        grid.current(),
        _runs[-1].compute_dtype,
        use_sharded_state=cfg.use_sharded_state,
        reshard_after_forward=not cfg.no_reshard_after_forward,
        cpu_offload=cfg.cpu_offload and on_gpu,
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether ``wrap`` made ``model``, which needs none of fairseq's wrappers then."""
    return isinstance(model, FullyShardedModel)
