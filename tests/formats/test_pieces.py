"""Who asks for a piece of a tensor gets it from any form of a model, without the rest being read."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.fairseq import FAIRSEQ_CHECKPOINT
from metaseq_plugin.formats.locate import locate
from metaseq_plugin.formats.metaseq.read import join
from metaseq_plugin.formats.model import read_model
from metaseq_plugin.formats.tensors import finite
from metaseq_plugin.layout.cuts import model_part_piece
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.storage.lazy import Lazy, Tensors, twin
from tests.formats.folders import run_convert, write_hf

NAME = "decoder.layers.0.fc1.weight"
SHAPE = torch.Size([8, 3])
WHOLE = torch.arange(24.0).view(SHAPE)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    write_hf(folder / "hf")
    run_convert(folder / "hf", folder / "file", "--to", "fairseq")
    parts = ("--model-parallel-size", 2)
    run_convert(folder / "hf", folder / "metaseq", "--to", "metaseq", *parts, "--num-shards", 2)
    reshard(folder / "file" / FAIRSEQ_CHECKPOINT, folder / "set", 2, 2)
    return {name: folder / name for name in ("hf", "file", "metaseq", "set")}


@pytest.mark.parametrize("form", ["hf", "file", "metaseq", "set"])
@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_pieces_are_those_of_the_whole(forms: dict[str, Path], form: str, num_parts: int) -> None:
    whole = read_model(forms["hf"]).tensors
    found = read_model(forms[form]).tensors
    assert list(found) == list(whole)
    for name, tensor in whole.items():
        assert torch.equal(found[name], tensor)
        for rank in range(num_parts):
            piece = model_part_piece(name, tensor.shape, rank, num_parts)
            assert torch.equal(found.piece(name, piece), tensor[piece.slices])


class Parts:
    """Model parts that note which of them were read."""

    def __init__(self, number: int) -> None:
        self.read: list[int] = []
        self.pieces = [model_part_piece(NAME, SHAPE, rank, number) for rank in range(number)]

    def make(self, rank: int) -> Tensor:
        self.read.append(rank)
        return WHOLE[self.pieces[rank].slices]

    def tensors(self) -> list[Tensors]:
        return [
            Tensors({NAME: Lazy(twin(p.size, torch.float32), partial(self.make, rank))})
            for rank, p in enumerate(self.pieces)
        ]


@pytest.mark.parametrize(
    ("num_parts", "rank", "size", "read"),
    [(4, 0, 2, [0, 1]), (4, 3, 4, [3]), (2, 1, 4, [0]), (2, 2, 4, [1]), (1, 1, 2, [0])],
)
def test_only_parts_that_hold_the_piece_are_read(
    num_parts: int, rank: int, size: int, read: list[int]
) -> None:
    parts = Parts(num_parts)
    joined = join(parts.tensors(), {NAME: SHAPE})
    piece = model_part_piece(NAME, SHAPE, rank, size)
    assert torch.equal(joined.piece(NAME, piece), WHOLE[piece.slices])
    if num_parts > 1:
        assert parts.read == read


def test_reading_a_set_makes_nothing(
    forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    tensor = CheckpointSet.tensor

    def noting(self: Any, name: str, piece: Piece) -> Tensor:
        made.append(name)
        return tensor(self, name, piece)

    monkeypatch.setattr(CheckpointSet, "tensor", noting)
    model = read_model(forms["set"])
    assert locate(forms["set"]).is_set
    assert made == []
    shape = model.tensors.twins[NAME].shape
    assert model.tensors.piece(NAME, model_part_piece(NAME, shape, 1, 2)).numel() == (
        shape.numel() // 2
    )
    assert made == [NAME]


def test_a_piece_is_looked_through_and_nothing_else() -> None:
    held = WHOLE.clone()
    held[6, 1] = torch.nan
    tensors = finite(Tensors.of({NAME: held}), "a folder")
    first = tensors.piece(NAME, model_part_piece(NAME, SHAPE, 0, 2))
    assert torch.equal(first, held[:4])
    with pytest.raises(UserError, match=f"`{NAME}` in a folder holds nan"):
        tensors.piece(NAME, model_part_piece(NAME, SHAPE, 1, 2))
