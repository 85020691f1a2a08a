"""``--document-attention``: several documents in a row are what each is in a row of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metaseq_plugin.modules.kv_cache import KVCache
from tests.fairseq_runs import train, write_data
from tests.opt_models import KINDS, PAD, decoder
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

EOS = 2
DOCUMENTS = [[5, 6, 7, 8, EOS], [9, EOS], [EOS], [10, 11, 12, 13, 14, 15], []]


def packed(padding: int) -> torch.Tensor:
    row = [token for document in DOCUMENTS for token in document]
    return torch.tensor([row + [PAD] * padding, [20, 21] + [EOS] + [22] * (len(row) + padding - 3)])


def apart(padding: int) -> list[tuple[int, int, torch.Tensor]]:
    """(row, start, tokens) of every document of ``packed``."""
    found = []
    for number, row in enumerate(packed(padding).tolist()):
        start = 0
        for at, token in enumerate(row):
            if token == EOS or at + 1 == len(row) or row[at + 1] == PAD:
                found.append((number, start, torch.tensor([row[start : at + 1]])))
                start = at + 1
            if at + 1 < len(row) and row[at + 1] == PAD:
                break
    return found


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_documents_apart(kind: str, padding: int) -> None:
    model = decoder(
        std=0.1, document_attention=True, dropout=0.0, attention_dropout=0.0, **KINDS[kind]
    )
    assert sum(len(t[0]) for _, _, t in apart(padding)) == int(packed(padding).ne(PAD).sum())
    weight = torch.randn(2, packed(padding).size(1), model.embed_tokens.weight.size(0))
    logits, _ = model(packed(padding))
    (logits * weight * packed(padding).ne(PAD)[..., None]).sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, start, tokens in apart(padding):
        part = slice(start, start + tokens.size(1))
        alone, _ = model(tokens)
        assert (alone[0] - logits[row, part]).abs().max() < 1e-5
        (alone[0] * weight[row, part]).sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(together[name], p.grad, rtol=1e-4, atol=1e-5), name


def test_without_it_documents_see_each_other() -> None:
    model = decoder(std=0.1)
    logits, _ = model(packed(0))
    alone, _ = model(torch.tensor([DOCUMENTS[1]]))
    assert (alone[0] - logits[0, 5:7]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_generation_goes_on_from_the_document_after_the_separator(kind: str) -> None:
    model = decoder(std=0.1, document_attention=True, **KINDS[kind])
    tokens = torch.tensor([[EOS, 5, 6, 7, 8, 9]])
    full, _ = model(tokens)
    cache = KVCache(len(model.layers), 10, has_pad=False)
    steps = [model(tokens[:, :3], cache=cache)[0]]
    steps += [model(tokens[:, at : at + 1], cache=cache)[0] for at in range(3, 6)]
    assert (torch.cat(steps, 1) - full).abs().max() < 1e-5
    alone, _ = model(tokens[:, 1:])
    assert (full[:, 1:] - alone).abs().max() < 1e-5


LAYOUTS: dict[str, tuple[Any, ...]] = {
    "tp2": ("--model-parallel-size", 2),
    "tp2 sequence": ("--model-parallel-size", 2, "--sequence-parallel"),
    "fsdp2": ("--ddp-backend", "fully_sharded", "--use-sharded-state", "--checkpoint-activations"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_agree(tmp_path: Path, name: str) -> None:
    data = write_data(tmp_path / "data", documents=100, longest=10)
    options = (
        "--document-attention", "--max-update", 4, "--dropout", 0, "--attention-dropout", 0,
        "--disable-validation", "--no-save", "--batch-size", 2, "--tokens-per-sample", 31,
    )  # fmt: skip
    one, more = Recorder(tmp_path / "one"), Recorder(tmp_path / "more")
    uf = ("--update-freq", 2)
    assert train(data, tmp_path / "a", *options, *uf, prepare=one).status == 0
    extra = () if name == "fsdp2" else uf
    ended = train_ranks(2, data, tmp_path / "b", *options, *extra, *LAYOUTS[name], prepare=more)
    assert [rank.status for rank in ended] == [0, 0], ended[1].output
    for key in ("loss", "gnorm"):
        assert more.numbers(key) == pytest.approx(one.numbers(key), rel=1e-5)


def test_sdpa_takes_the_mask() -> None:
    """The mask that is handed on is one that keeps every query at least itself."""
    model = decoder(document_attention=True)
    _, mask = model.positions_and_mask(packed(4), None)
    assert mask is not None
    assert mask.any(-1).all()
    q = torch.randn(2, 1, mask.size(-1), 4)
    assert F.scaled_dot_product_attention(q, q, q, mask).isfinite().all()
