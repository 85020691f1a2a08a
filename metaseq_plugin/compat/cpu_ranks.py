"""Several ranks on CPU: fairseq's trainer assumes that data-parallel ranks have a GPU each.

(1) DistributedDataParallel is given a device id, which it refuses for a model in host memory;
(2) where gradients overflow, and where a sharded norm is added up, the trainer calls ``.cuda()``;
(3) ``all_gather_list``, which ``fairseq-validate`` and criterions without sums ask, has its buffer there.

A trainer that computes on the CPU gets neither; one that computes on a GPU sees nothing of this.
"""

from contextlib import contextmanager
from functools import wraps
from typing import Any, Callable, Iterator, List

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class AnyDeviceDDP(DistributedDataParallel):
    """``DistributedDataParallel`` that takes device ids for a model on a GPU only."""

    def __init__(
        self, module: nn.Module, device_ids: Any = None, output_device: Any = None, **options: Any
    ) -> None:
        if next(module.parameters()).device.type == "cpu":
            device_ids = output_device = None
        super().__init__(module, device_ids, output_device, **options)


def stay(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.cuda`` where there is nowhere to go."""
    return tensor


@contextmanager
def on_the_host() -> Iterator[None]:
    """Until the end of the block, ``Tensor.cuda`` leaves every tensor where it is."""
    torch.Tensor.cuda = stay  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del torch.Tensor.cuda  # the inherited one shows again


def staying(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.train_step``; a trainer on the CPU keeps its tensors there."""

    @wraps(train_step)
    def wrapper(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.device.type != "cpu":
            return train_step(trainer, *args, **kwargs)
        with on_the_host():
            return train_step(trainer, *args, **kwargs)

    return wrapper


def gathering(all_gather_list: Callable[..., List[Any]]) -> Callable[..., List[Any]]:
    """``all_gather_list``, through torch's own where there is no GPU."""

    @wraps(all_gather_list)
    def wrapper(data: Any, group: Any = None, max_size: int = 16_384) -> List[Any]:
        if torch.cuda.is_available():
            return all_gather_list(data, group, max_size)
        gathered: List[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(gathered, data, group=group)
        return gathered

    return wrapper


def take_any_device(distributed_fairseq_model: Any) -> None:
    distributed_fairseq_model.DistributedDataParallel = AnyDeviceDDP
