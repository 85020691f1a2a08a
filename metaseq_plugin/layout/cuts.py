"""How each tensor of the decoder is cut: by tensor parallelism, then by sharding.

Megatron's plan as a table: column-wise layers (q, k, v and fc1) and the vocabulary are cut along dim
0, row-wise ones (out_proj and fc2) along dim 1, everything else is held whole by every model part.
Sharding cuts what is left along dim 0, in blocks as torch.chunk makes them: the last ranks may hold
less, or nothing.

    fc1.weight (F, D), model part 1 of 2:  rows F/2 … F;  then shard 0 of 2:  rows F/2 … 3F/4
"""

from typing import Optional, Sequence

from metaseq_plugin.layout.layout import check_divides
from metaseq_plugin.layout.piece import Piece

# The last two words of a parameter's name -> the dim that model parts share out.
MODEL_PARALLEL_DIM = {
    "embed_tokens.weight": 0,
    "q_proj.weight": 0,
    "q_proj.bias": 0,
    "k_proj.weight": 0,
    "k_proj.bias": 0,
    "v_proj.weight": 0,
    "v_proj.bias": 0,
    "out_proj.weight": 1,
    "fc1.weight": 0,
    "fc1.bias": 0,
    "fc2.weight": 1,
}


def model_parallel_dim(name: str) -> Optional[int]:
    """The dim of the parameter ``name`` that model parts share out; None: each holds all of it."""
    return MODEL_PARALLEL_DIM.get(".".join(name.rsplit(".", 2)[-2:]))


def model_part_piece(name: str, shape: Sequence[int], rank: int, size: int) -> Piece:
    """What model part ``rank`` of ``size`` holds of the full tensor ``name`` of ``shape``.

    Raises:
        UserError: the dim that is cut does not divide.
    """
    whole = Piece.whole(shape)
    dim = model_parallel_dim(name)
    if dim is None or size == 1:
        return whole
    check_divides(size, {f"dim {dim} of {name}": shape[dim]})
    length = shape[dim] // size
    return whole.narrow(dim, rank * length, length)


def shard_piece(piece: Piece, rank: int, size: int) -> Piece:
    """What shard ``rank`` of ``size`` holds of ``piece``: a block of its rows, perhaps none."""
    if size == 1:
        return piece
    rows = piece.size[0]
    length = -(-rows // size)
    start = min(rank * length, rows)
    return piece.narrow(0, start, min(length, rows - start))
