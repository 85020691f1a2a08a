"""A run is what fairseq's flags ask for, kept once a process, and forgotten by ``reset``."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fairseq.model_parallel.megatron import mpu

from metaseq_plugin.distributed import run
from metaseq_plugin.layout.grid import SINGLE


@pytest.fixture(autouse=True)
def _no_run_before_or_after() -> Iterator[None]:
    run.reset()
    yield
    run.reset()
    if dist.is_initialized():
        dist.destroy_process_group()


def config(backend: str, **common: bool) -> Any:
    """Flags of a run of one process."""
    return SimpleNamespace(
        checkpoint=SimpleNamespace(write_checkpoints_asynchronously=True),
        common=SimpleNamespace(**{"fp16": False, "bf16": False, "cpu": True, **common}),
        distributed_training=SimpleNamespace(
            ddp_backend=backend, distributed_rank=0, use_sharded_state=True,
            no_reshard_after_forward=True, cpu_offload=False,
        ),
    )  # fmt: skip


def test_a_plain_run_changes_nothing() -> None:
    cfg = config("pytorch_ddp", bf16=True)
    run.prepare(cfg)
    assert run.current().grid is SINGLE
    assert not run.current().is_fully_sharded
    assert cfg.common.bf16
    with run.current().building():
        assert torch.empty(1).is_meta


def test_a_sharded_run_of_one_process_has_a_grid_until_it_is_reset() -> None:
    cfg = config("fully_sharded", bf16=True)
    run.prepare(cfg)
    now = run.current()
    assert (now.grid.world_size, now.compute_dtype, now.is_fully_sharded) == (
        1,
        torch.bfloat16,
        True,
    )
    assert (now.use_sharded_state, now.reshard_after_forward) == (True, False)
    assert not cfg.common.bf16
    assert not cfg.checkpoint.write_checkpoints_asynchronously
    assert mpu.get_data_parallel_group() is now.grid.data_group
    with now.building():
        assert torch.empty(1).is_meta
    run.reset()
    assert run.current() == run.Run()
    assert mpu.get_data_parallel_world_size() == 1
    assert mpu.get_model_parallel_group() is None
