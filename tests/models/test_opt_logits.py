"""The model's numbers: those of Hugging Face's OPT, whatever the padding and however decoded."""

from typing import Any, Iterable

import pytest
import torch
from torch import Tensor

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.models.opt import OPTDecoder
from metaseq_plugin.modules.positions import POSITION_OFFSET, positions_and_mask
from tests.cached_reading import cached_logits
from tests.opt_models import KINDS, PAD, TINY, config, decoder, hf_twin, tokens

TINY_TOLERANCE = 2e-5
REAL_TOLERANCE = 1e-4
DECODING_TOLERANCE = 1e-5
LENGTH = 20


@pytest.fixture(params=KINDS)
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


# One row of tokens with padding put in: where, and how much of it.
PADDINGS: dict[str, Any] = {
    "left": lambda row: [PAD] * 5 + row,
    "right": lambda row: [*row, *[PAD] * 5],
    "interior": lambda row: [*row[:7], PAD, PAD, *row[7:9], PAD, *row[9:], PAD, PAD],
    "both ends": lambda row: [PAD] * 2 + row + [PAD] * 3,
}


def pad(rows: Iterable[list[int]], how: str) -> Tensor:
    return torch.tensor([PADDINGS[how](row) for row in rows])


@torch.no_grad()
def logits(model: OPTDecoder, ids: Tensor) -> Tensor:
    return model(ids)[0]


@torch.no_grad()
def test_logits_equal_hugging_faces(shape: dict[str, Any]) -> None:
    ours, ids = decoder(**shape), tokens(3, LENGTH)
    theirs = hf_twin(ours, config(**shape))(ids).logits
    assert theirs.abs().max() > 1  # the comparison is not of zeros
    torch.testing.assert_close(logits(ours, ids), theirs, atol=TINY_TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("how", PADDINGS)
def test_padded_logits_equal_hugging_faces(shape: dict[str, Any], how: str) -> None:
    ours, ids = decoder(**shape), pad(tokens(3, LENGTH).tolist(), how)
    real = ids.ne(PAD)
    theirs = hf_twin(ours, config(**shape))(ids, attention_mask=real.long()).logits
    torch.testing.assert_close(logits(ours, ids)[real], theirs[real], atol=TINY_TOLERANCE, rtol=0)


@torch.no_grad()
def test_released_shape_equals_hugging_faces() -> None:
    ours = decoder(vocab_size=50272, std=0.02)
    ids = tokens(2, 48, vocab_size=50272)
    theirs = hf_twin(ours, config())(ids).logits
    assert theirs.abs().max() > 1
    torch.testing.assert_close(logits(ours, ids), theirs, atol=REAL_TOLERANCE, rtol=0)


@pytest.mark.parametrize("how", PADDINGS)
def test_padding_changes_no_logits(shape: dict[str, Any], how: str) -> None:
    model, rows = decoder(**shape), tokens(3, LENGTH)
    padded = pad(rows.tolist(), how)
    found = logits(model, padded)[padded.ne(PAD)].view(3, LENGTH, -1)
    torch.testing.assert_close(found, logits(model, rows), atol=TINY_TOLERANCE, rtol=0)


def test_batch_of_different_lengths(shape: dict[str, Any]) -> None:
    model = decoder(**shape)
    rows = [tokens(1, n, seed=n)[0].tolist() for n in (3, 11, 20)]
    together = logits(model, torch.tensor([[PAD] * (20 - len(row)) + row for row in rows]))
    for number, row in enumerate(rows):
        alone = logits(model, torch.tensor([row]))[0]
        torch.testing.assert_close(
            together[number, -len(row) :], alone, atol=TINY_TOLERANCE, rtol=0
        )


def test_logits_see_no_future() -> None:
    model, ids = decoder(**TINY), tokens(1, LENGTH)
    changed = ids.clone()
    changed[0, 12] = (ids[0, 12] - 1) % 40 + 2
    assert torch.equal(logits(model, ids)[0, :12], logits(model, changed)[0, :12])
    assert not torch.equal(logits(model, ids)[0, 12], logits(model, changed)[0, 12])


@pytest.mark.parametrize("how", PADDINGS)
def test_first_real_token_uses_row_two(how: str) -> None:
    padded = pad(tokens(2, LENGTH).tolist(), how)
    positions, _ = positions_and_mask(padded, PAD, TINY["decoder_max_positions"])
    expected = torch.arange(POSITION_OFFSET, POSITION_OFFSET + LENGTH).repeat(2, 1)
    assert POSITION_OFFSET == 2
    assert torch.equal(positions[padded.ne(PAD)].view(2, LENGTH), expected)
    assert (positions[padded.eq(PAD)] == PAD).all()


def test_padding_counts_for_no_position() -> None:
    model, longest = decoder(**TINY), TINY["decoder_max_positions"]
    fits = torch.cat([torch.full((1, 9), PAD), tokens(1, longest)], dim=1)
    assert logits(model, fits).shape[1] == longest + 9
    with pytest.raises(UserError, match=r"at most 40 tokens .* has 41"):
        logits(model, tokens(1, longest + 1))


# How many tokens of each row are read at once; the others follow one by one.
NUM_READ = {"one by one": [1, 1, 1], "alike": [12, 12, 12], "unlike": [3, LENGTH, 9]}


@pytest.mark.parametrize("num_read", NUM_READ)
def test_incremental_decoding_equals_full_forward(shape: dict[str, Any], num_read: str) -> None:
    model, ids = decoder(**shape), tokens(3, LENGTH)
    found = torch.stack(cached_logits(model, ids.tolist(), NUM_READ[num_read]))
    torch.testing.assert_close(found, logits(model, ids), atol=DECODING_TOLERANCE, rtol=0)
