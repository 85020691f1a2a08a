"""Initial weights that depend on the seed, the name and the place in the tensor, and on nothing else.

The usual way draws one tensor after the other from one stream, so that a rank would have to draw the
whole model to know its own part. Here every block of rows of every tensor has a stream of its own,
named by (seed, tensor, block): a rank draws the blocks that its piece touches, and any layout of ranks,
one process included, gets the same weights. Threads divide the blocks among themselves, one a core.

Philox is the counter-based generator of Salmon et al. 2011 (SC '11); NumPy's takes the 128-bit key.
Weights are drawn on the CPU whatever the device is, so that the device does not matter either.
"""

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from metaseq_plugin.layout.piece import Piece

# Elements of a block, about: few enough that a shard draws little beside its own and that a block stays
# in a core's cache, enough that a stream's set-up (10 microseconds) does not count.
BLOCK_ELEMENTS = 262_144


class Matrix(NamedTuple):
    """A matrix to fill with its part of N(0, std²): ``held`` is ``piece`` of the matrix ``name``."""

    name: str
    held: Tensor
    piece: Piece
    std: float


class Block(NamedTuple):
    """Block ``number`` of a matrix, and which of its rows are held: ``skipped``, then ``taken``."""

    matrix: Matrix
    number: int
    rows: int
    skipped: int
    taken: int


def rows_of_block(columns: int) -> int:
    """Of a matrix of so many columns; the last block may have fewer."""
    return max(1, BLOCK_ELEMENTS // columns)


def blocks_of(matrix: Matrix) -> Iterator[Block]:
    """The blocks that the piece touches."""
    num_rows, columns = matrix.piece.shape
    block_rows = rows_of_block(columns)
    row, end = matrix.piece.start[0], matrix.piece.start[0] + matrix.piece.size[0]
    while row < end:
        number, skipped = divmod(row, block_rows)
        rows_there = min(block_rows, num_rows - number * block_rows)
        taken = min(rows_there - skipped, end - row)
        yield Block(matrix, number, rows_there, skipped, taken)
        row += taken


def draw_block(
    seed: int, name: str, number: int, std: float, values: "np.ndarray[Any, np.dtype[np.float32]]"
) -> None:
    """Fill ``values``, all rows of block ``number`` of the matrix ``name``, from N(0, std²)."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    generator.standard_normal(dtype=np.float32, out=values)
    np.multiply(values, np.float32(std), out=values)


def put(values: "np.ndarray[Any, np.dtype[np.float32]]", held: Tensor) -> None:
    """Copy ``values`` into ``held``, on its device and in its type."""
    if held.device.type == "cpu" and held.dtype == torch.float32:
        np.copyto(held.numpy(), values)
    else:  # as fp32 to the device first, which has the faster way into another type
        held.copy_(torch.from_numpy(np.ascontiguousarray(values)).to(held.device))


def fill_blocks(blocks: Iterable[Block], seed: int) -> None:
    """Draw ``blocks``, and put of each what is held into its tensor. NumPy throughout: torch would start threads."""
    scratch = np.empty(0, np.float32)  # kept: memory new to the process costs as much as a draw
    for matrix, number, rows, skipped, taken in blocks:
        shape = (rows, matrix.piece.shape[1])
        if scratch.size < math.prod(shape):
            scratch = np.empty(math.prod(shape), np.float32)
        values = scratch[: math.prod(shape)].reshape(shape)
        draw_block(seed, matrix.name, number, matrix.std, values)
        begin = number * rows_of_block(shape[1]) + skipped - matrix.piece.start[0]
        put(
            values[skipped : skipped + taken, matrix.piece.slices[1]],
            matrix.held[begin : begin + taken],
        )


def num_threads() -> int:
    """This rank's share of the cores that it may use."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def fill_normal(matrices: Sequence[Matrix], seed: int) -> None:
    """Fill every one of ``matrices``; thread i of n has the blocks i, i + n, i + 2n, …"""
    threads = num_threads()

    def fill_share(first: int) -> None:
        blocks = (block for matrix in matrices for block in blocks_of(matrix))
        fill_blocks(islice(blocks, first, None, threads), seed)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill_share, range(threads)))


def empty_embedding(num_rows: int, dim: int, padding_idx: int) -> nn.Embedding:
    """One to be filled later; ``nn.Embedding`` draws at once, for which torch imports its compiler on the meta device."""
    rows = torch.empty(num_rows, dim)
    return nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=padding_idx)


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
    matrices = []
    for name, (tensor, piece) in held.items():
        if tensor.dim() == 1:  # biases, and the norms' weights
            tensor.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            continue
        is_block_output = name.endswith(("self_attn.out_proj.weight", "fc2.weight"))
        scale = 1 / math.sqrt(2 * num_layers) if is_block_output else 1.0
        matrices.append(Matrix(name, tensor.detach(), piece, std * scale))
    fill_normal(matrices, seed)
    for name, tensor, piece, _ in matrices:
        pad_row = padding_idx - piece.start[0]
        if name.startswith("embed_") and 0 <= pad_row < piece.size[0]:
            tensor[pad_row].zero_()
