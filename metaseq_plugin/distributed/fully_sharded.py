"""``--ddp-backend fully_sharded``: PyTorch's FSDP2 (ZeRO-3, Rajbhandari et al. 2020, arXiv:1910.02054).

    fairseq-train … --ddp-backend fully_sharded [--use-sharded-state] [--bf16 | --fp16]

Each parameter is cut along dim 0 over the data-parallel ranks, with its gradient and its moments. A group
of parameters is gathered when it is computed with, and its gradients are averaged and scattered when
they are there. The groups: one for each decoder layer, and the root's, which holds the embeddings and
the last norm.

    GROUPS        gathered in forward    dropped after forward               gradients
    each layer    before it runs         yes; --no-reshard-after-forward no  scattered after it ran
    root          at the start           no (the loss projects with it)      scattered at the end

The steps, in ``Run.wrap``: (1) the model comes on the meta device, its tensor-parallel cut done; (2) FSDP2
replaces its parameters by shards, which are marked with the piece that they are (``cut_shards``);
(3) ``FullyShardedModel`` stands around it and is what fairseq's trainer asks for its state; (4) shards
get memory and initial values, so that no rank ever holds the whole model. Master weights, gradients and moments are
fp32; --bf16 and --fp16 choose what is gathered and computed with.
"""

from typing import Any, Dict, Mapping, Optional

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from metaseq_plugin.layout.cuts import shard_piece
from metaseq_plugin.layout.fit import check_finite, check_fits
from metaseq_plugin.layout.grid import DATA_AXIS, Grid
from metaseq_plugin.layout.held import (
    is_model_part,
    local,
    local_tensors,
    mark,
    named_pieces,
)


class FullyShardedModel(nn.Module):
    """A sharded OPT behind the face that fairseq knows from FairScale's FSDP.

    Args:
        module: after ``fully_shard``.
        use_sharded_state: state dicts hold this rank's shards; otherwise the whole of its model part,
            on data-parallel rank 0 only, as fairseq saves it.
    """

    def __init__(self, module: nn.Module, grid: Grid, use_sharded_state: bool) -> None:
        super().__init__()
        self.module = module
        self.grid = grid
        self.use_sharded_state = use_sharded_state

    def __getattr__(self, name: str) -> Any:
        """What is not here is the model's: fairseq asks it for max_positions and more."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> "FullyShardedModel":
        """Shards lie where they belong since they were made; fairseq moves every model once more."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """name -> this rank's shard; or the whole, on data-parallel rank 0, a collective call."""
        if self.use_sharded_state:
            return local_tensors(self)
        whole = {name: self._gathered(p.detach(), p) for name, p, _ in named_pieces(self)}
        return {name: tensor for name, tensor in whole.items() if tensor is not None}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, model_cfg: Optional[Any] = None
    ) -> None:
        """Take this rank's shards from ``state_dict``, which has been cut for it."""
        held = local_tensors(self)
        check_fits(held, state_dict, strict)
        check_finite({name: state_dict[name] for name in held})
        for name, tensor in held.items():
            tensor.copy_(state_dict[name])

    def _gathered(self, tensor: Tensor, parameter: Tensor) -> Optional[Tensor]:
        """All shards of ``tensor``, cut as ``parameter`` is, on the CPU of rank 0; None on the others."""
        from torch.distributed.tensor import DTensor  # slow to import, and nothing else needs it

        assert isinstance(parameter, DTensor), f"a parameter that is not sharded: {parameter.shape}"
        if tensor.dim() == 0:  # a count of updates, alike on all ranks
            return tensor.cpu() if self.grid.data_parallel_rank == 0 else None
        shards = DTensor.from_local(
            local(tensor).to(self.device), parameter.device_mesh, parameter.placements,
            shape=parameter.shape, stride=parameter.stride(),
        )  # fmt: skip
        whole = shards.full_tensor()
        return whole.cpu() if self.grid.data_parallel_rank == 0 else None

    @property
    def device(self) -> torch.device:
        """Where collectives happen; with --cpu-offload shards lie elsewhere."""
        assert self.grid.mesh is not None, "a sharded model needs a mesh"
        kind = self.grid.mesh.device_type
        return (
            torch.device(kind, torch.cuda.current_device())
            if kind == "cuda"
            else torch.device(kind)
        )

    # What fairseq's trainer calls on FairScale's class.

    def gather_full_optim_state_dict(self, optimizer: Any) -> Optional[Dict[str, Any]]:
        """The optimizer's state for the whole of each parameter, on data-parallel rank 0; collective."""
        saved = optimizer.state_dict()
        groups = optimizer.optimizer.param_groups
        params = [p for group in groups for p in group["params"]]
        state = {
            number: {key: self._gathered(value, params[number]) for key, value in of_one.items()}
            for number, of_one in sorted(saved["state"].items())
        }
        return {**saved, "state": state} if self.grid.data_parallel_rank == 0 else None

    def get_shard_from_optim_state_dict(self, state_dict: Dict[str, Any]) -> Dict[str, Any]:
        """Itself: what is loaded has been cut for this rank already."""
        return state_dict

    def local_metadata_dict(self) -> Dict[str, Any]:
        """Nothing: files say under "layout" what they hold."""
        return {}

    def all_reduce_grads(self) -> None:
        """What is left to sum over ranks after the last backward pass (sequence parallelism only)."""
        rest = vars(self.module).get("all_reduce_grads")
        if rest is not None:
            rest()


def cut_shards(
    model: nn.Module,
    grid: Grid,
    compute_dtype: torch.dtype,
    reshard_after_forward: bool = True,
    cpu_offload: bool = False,
) -> None:
    """Leave this rank its shards of ``model``, marked with their pieces, still on the meta device."""
    # Slow to import, and nothing but a sharded run needs it.
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    assert grid.mesh is not None, "sharding needs a mesh"
    mesh: DeviceMesh = grid.mesh[DATA_AXIS]
    # Forward casts nothing but weights: ids are integers, and activations follow from weights.
    precision = MixedPrecisionPolicy(
        param_dtype=None if compute_dtype == torch.float32 else compute_dtype,
        reduce_dtype=torch.float32,
    )
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    cuts = {name: (piece, is_model_part(p)) for name, p, piece in named_pieces(model)}
    decoder: Any = model.decoder
    common: Dict[str, Any] = dict(mesh=mesh, mp_policy=precision, offload_policy=offload)
    for layer in decoder.layers:
        fully_shard(layer, reshard_after_forward=reshard_after_forward, **common)
    fully_shard(model, reshard_after_forward=False, **common)

    for name, parameter in model.named_parameters():
        part, is_part = cuts[name]
        piece = shard_piece(part, grid.data_parallel_rank, grid.data_parallel_size)
        assert local(parameter).shape == piece.size, f"{name}: {local(parameter).shape}, {piece}"
        mark(parameter, piece, is_part)


def initialise(model: Any) -> None:
    """Fill what this rank holds of ``model`` with its initial values."""
    held = {name: (local(p.detach()), piece) for name, p, piece in named_pieces(model.decoder)}
    model.decoder.reset_parameters(held)
