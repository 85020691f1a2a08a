"""Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053) as a plan over the one plain decoder.

    fairseq-train … --model-parallel-size 2 [--sequence-parallel]

B batch, T tokens, D model dim, H heads, F feed-forward dim, V vocab; "/tp" is what one of tp ranks has.

    what                      cut                                       its input    its output
    embed_tokens              rows: V/tp                                tokens       leave
    self_attn.{q,k,v}_proj    rows: H/tp heads each                     enter        -
    self_attn.out_proj        columns: those of its heads               -            leave, then + bias
    fc1                       rows: F/tp                                enter        -
    fc2                       columns: F/tp                             -            leave, then + bias
    features for the loss     -                                         -            enter
    output_layer              its rows are embed_tokens'                -            gather: V
    norms, positions, biases of out_proj and fc2, project_in, project_out: whole on every rank

"enter" and "leave" (``region.py``) are the collectives around a block whose insides are cut: two
all-reduces a layer forward and two backward, of (B, T, D). "gather" is for decoding: the loss works on
V/tp logits, and no gradient goes through it. With --sequence-parallel (Korthikanti et
al. 2022, arXiv:2205.05198) activations between the blocks are cut as well, along T: enter gathers,
leave scatters, at the same number of bytes, and norms and dropout work on T/tp tokens.

The modules stay the plain ones with smaller parameters. ``cut`` only swaps the three kinds that need
another forward (row-wise linear layers, the token embedding) and hangs hooks on the rest.
"""

from functools import partial
from typing import Any, Callable, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from metaseq_plugin.distributed.region import Region
from metaseq_plugin.layout.cuts import model_part_piece
from metaseq_plugin.layout.grid import Grid, backend_device
from metaseq_plugin.layout.held import held_piece, is_model_part, local, mark
from metaseq_plugin.modules.collectives import all_gather
from metaseq_plugin.modules.linear import Linear, linear
from metaseq_plugin.modules.vocab_shard import VocabShard


class RowParallelLinear(Linear):
    """y = Σ over ranks of x_r W_rᵀ, + b, where W = [W_1 … W_tp] is cut along its columns.

    A rank holds W_r (O, I/tp) and all of b (O,), and is given x_r (…, I/tp), the output of a layer that
    is cut along its rows. Forward: leave; backward: leave's own.
    """

    def __init__(self, inner: nn.Linear, region: Region) -> None:
        has_bias = inner.bias is not None
        super().__init__(inner.in_features, inner.out_features, has_bias, device="meta")
        self.weight, self.bias, self.region = inner.weight, inner.bias, region

    def forward(self, x: Tensor) -> Tensor:
        y = self.region.leave(linear(x, self.stored_weight))  # (…, O)
        return y if self.bias is None else y + self.bias


class VocabParallelEmbedding(nn.Module):
    """Rows of E (V, D), of which a rank holds those from ``first_row`` on, (V/tp, D).

    A rank looks up the tokens whose rows it has, takes zeros for the others, and leave sums them up.
    """

    def __init__(self, inner: nn.Embedding, first_row: int, region: Region) -> None:
        super().__init__()
        self.weight, self.first_row, self.region = inner.weight, first_row, region
        pad_row = (inner.padding_idx or 0) - first_row
        self.pad_row = pad_row if 0 <= pad_row < inner.weight.size(0) else None

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) → (B, T, D), or (B, T/tp, D) with sequence parallelism."""
        row = tokens - self.first_row
        is_elsewhere = (row < 0) | (row >= self.weight.size(0))  # (B, T)
        x = F.embedding(row.masked_fill(is_elsewhere, 0), self.weight, self.pad_row)
        return self.region.leave(x.masked_fill(is_elsewhere.unsqueeze(-1), 0.0))


def cut(model: Any, grid: Grid, sequence_parallel: bool) -> None:
    """Leave this rank its part of ``model``, a whole OPT on the meta device, and wire the collectives."""
    group = grid.model_group
    assert group is not None, "tensor parallelism needs a process group"
    decoder: Any = model.decoder
    region = Region(group, sequence_parallel)
    _cut_parameters(decoder, grid)

    first_row = held_piece(decoder.embed_tokens.weight).start[0]
    decoder.embed_tokens = VocabParallelEmbedding(decoder.embed_tokens, first_row, region)
    model.vocab_shard = VocabShard(group, first_row)  # for the criterion
    for layer in decoder.layers:
        layer.self_attn.out_proj = RowParallelLinear(layer.self_attn.out_proj, region)
        layer.fc2 = RowParallelLinear(layer.fc2, region)
        layer.self_attn.register_forward_pre_hook(partial(_enter_input, region))
        layer.fc1.register_forward_pre_hook(partial(_enter_input, region))
        # Heads are cut, and with --sequence-parallel tokens too: what they drop is not what others drop.
        apart = layer if sequence_parallel else layer.self_attn
        apart.forward = _with_own_dropout(apart, grid.model_parallel_rank)
    decoder.output_layer = _with_all_logits(decoder, group)
    last = decoder.project_out_dim or decoder.layer_norm or decoder.layers[-1]
    last.register_forward_hook(partial(_enter_output, region))
    if sequence_parallel:
        decoder.embed_positions.register_forward_pre_hook(partial(_own_tokens, region))
        decoder.forward = _with_even_tokens(decoder, region.size)
        model.all_reduce_grads = partial(sum_partial_gradients, model, region)


def _cut_parameters(decoder: nn.Module, grid: Grid) -> None:
    """Replace every parameter that is cut by this rank's part, marked."""
    for name, parameter in list(decoder.named_parameters()):
        piece = model_part_piece(
            name, parameter.shape, grid.model_parallel_rank, grid.model_parallel_size
        )
        if not piece.is_whole:
            owner, _, last_word = name.rpartition(".")
            part = nn.Parameter(parameter.detach()[piece.slices].clone())
            mark(part, piece, is_model_part=True)
            setattr(decoder.get_submodule(owner), last_word, part)


def _enter_input(region: Region, module: nn.Module, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
    return (region.enter(args[0]), *args[1:])


def _enter_output(region: Region, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """``enter`` for the features, which FSDP2 wants to be no view of anything."""
    if region.cuts_tokens:
        return region.enter(output)
    if output.requires_grad:
        output.register_hook(region.summed)  # nothing but the loss takes them
    return output


def _with_all_logits(decoder: Any, group: dist.ProcessGroup) -> Callable[..., Any]:
    """``decoder.output_layer`` for the whole vocabulary: (…, E) → (…, V), the same bits on all ranks.

    Every logit is computed by the one rank that holds the token's row, so not even rounding can differ.
    """
    output_layer = decoder.output_layer

    @torch.no_grad()
    def with_all_logits(features: Tensor, **kwargs: Any) -> Tensor:
        own = output_layer(features, **kwargs).contiguous()  # (…, V/tp)
        parts = own.new_empty(dist.get_world_size(group), *own.shape)  # (tp, …, V/tp)
        all_gather(parts.flatten(0, 1), own, group=group)
        return parts.movedim(0, -2).flatten(-2)

    return with_all_logits


def _own_tokens(region: Region, module: nn.Module, args: Tuple[Tensor]) -> Tuple[Tensor]:
    """Positions (B, T) → those of this rank's tokens, (B, T/tp)."""
    return (args[0].chunk(region.size, dim=1)[region.rank],)


def _with_even_tokens(decoder: Any, multiple: int) -> Callable[..., Any]:
    """``decoder.forward`` for any T: ids are padded to a multiple, and features cut to T again.

    Padding on the right changes no other position, and needs no attention mask.
    """
    forward = decoder.forward

    def with_even_tokens(tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        missing = -tokens.size(1) % multiple
        if not missing:
            return forward(tokens, *args, **kwargs)
        padded = F.pad(tokens, (0, missing), value=decoder.padding_idx)
        features, extra = forward(padded, *args, **kwargs)
        return features[:, : tokens.size(1)].clone(), extra

    return with_even_tokens


def _with_own_dropout(module: nn.Module, rank: int) -> Callable[..., Any]:
    """``module.forward`` in which this rank drops other elements than its neighbours.

    fairseq seeds torch at each update, alike on all ranks, so that replicated activations lose the
    same elements everywhere. For the inside of a cut block that would be the same heads' pattern on
    every rank. Here each call takes one number from the common CPU stream, which all ranks advance
    alike, and draws from a stream that this number and the rank begin. Activation checkpointing
    restores the common stream, and with it this one.
    """
    forward = module.forward

    def with_own_dropout(*args: Any, **kwargs: Any) -> Any:
        if not module.training:
            return forward(*args, **kwargs)
        common = int(torch.randint(2**62, (), device="cpu"))
        x: Tensor = args[0]
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(common + rank)
            return forward(*args, **kwargs)

    return with_own_dropout


@torch.no_grad()
def sum_partial_gradients(model: nn.Module, region: Region) -> None:
    """Sum over ranks the gradients of what is held whole but has seen only T/tp tokens.

    These are the norms, the positions and the biases that are added after leave. fairseq's trainer
    calls this once an update, after the last backward pass.
    """
    partial_gradients = [
        local(p.grad) for p in model.parameters() if p.grad is not None and not is_model_part(p)
    ]
    flat = torch.cat([gradient.flatten() for gradient in partial_gradients])
    flat = flat.to(backend_device())  # with --cpu-offload they lie where NCCL does not reach
    dist.all_reduce(flat, group=region.group)
    for gradient, summed in zip(
        partial_gradients, flat.split([g.numel() for g in partial_gradients])
    ):
        gradient.copy_(summed.view_as(gradient))
