"""Initial weights that depend on the seed, the name and the place in the tensor, and on nothing else.

The usual way draws one tensor after the other from one stream, so that a rank would have to draw the
whole model to know its own part. Here every block of rows of every tensor has a stream of its own,
named by (seed, tensor, block): a rank draws the blocks that its piece touches, and any layout of ranks,
one process included, gets the same weights.

Philox is the counter-based generator of Salmon et al. 2011 (SC '11); NumPy's takes the 128-bit key.
Weights are drawn on the CPU whatever the device is, so that the device does not matter either.
"""

import hashlib
import math
from typing import Mapping, Tuple

import numpy as np
import torch
from torch import Tensor

from metaseq_plugin.layout.piece import Piece

# Elements of a block, about: few enough that a shard draws little beside its own, enough that a
# stream's set-up (10 microseconds) does not count.
BLOCK_ELEMENTS = 262_144


def draw_block(seed: int, name: str, block: int, rows: int, columns: int, std: float) -> Tensor:
    """Block ``block`` of the matrix ``name``: (rows, columns) from N(0, std²), fp32."""
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    values = generator.standard_normal((rows, columns), dtype=np.float32)
    return torch.from_numpy(values).mul_(std)


@torch.no_grad()
def fill_all(
    held: Mapping[str, Tuple[Tensor, Piece]],
    std: float,
    num_layers: int,
    padding_idx: int,
    seed: int,
) -> None:
    """OPT's initial values (Zhang et al. 2022, section 2.2, after Megatron-LM).

    Weights N(0, std²), of the layers that end a block N(0, std²/(2·layers)); biases and the embeddings
    of padding 0; the norms' weights 1.

    Args:
        held: by the parameter's name, what is held of it and which piece that is.
    """
    for name, (tensor, piece) in held.items():
        if tensor.dim() == 1:  # biases, and the norms' weights
            tensor.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            continue
        is_block_output = name.endswith(("self_attn.out_proj.weight", "fc2.weight"))
        scale = 1 / math.sqrt(2 * num_layers) if is_block_output else 1.0
        fill_normal(tensor, piece, std * scale, seed, name)
        pad_row = padding_idx - piece.start[0]
        if name.startswith("embed_") and 0 <= pad_row < piece.size[0]:
            tensor[pad_row].zero_()


def fill_normal(held: Tensor, piece: Piece, std: float, seed: int, name: str) -> None:
    """Fill ``held``, which is ``piece`` of the matrix ``name``, with its part of N(0, std²)."""
    num_rows, columns = piece.shape
    block_rows = max(1, BLOCK_ELEMENTS // columns)
    row, end = piece.start[0], piece.start[0] + piece.size[0]
    while row < end:
        block, skipped = divmod(row, block_rows)
        rows_there = min(block_rows, num_rows - block * block_rows)
        taken = min(rows_there - skipped, end - row)
        drawn = draw_block(seed, name, block, rows_there, columns, std)
        begin = row - piece.start[0]
        held[begin : begin + taken].copy_(drawn[skipped : skipped + taken, piece.slices[1]])
        row += taken
