"""``--document-attention``: documents in one row are computed as if each had a row of its own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metaseq_plugin.modules.compile import compile_layers
from metaseq_plugin.modules.positions import POSITION_OFFSET, positions_and_mask
from tests.cached_reading import cached_logits
from tests.fairseq_runs import train, write_data
from tests.opt_models import KINDS, PAD, TINY, decoder, tokens
from tests.recorder import Recorder

EOS = 2
LOGIT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-6
LENGTHS = (4, 1, 9, 12)  # of the documents, their leading </s> included


def documents(seed: int) -> list[list[int]]:
    """Documents of ``LENGTHS``, none of whose own tokens is padding or ``</s>``."""
    rows = [tokens(1, n, seed=seed + n)[0].clamp(min=4).tolist() for n in LENGTHS]
    return [[EOS, *row[1:]] for row in rows]


def joined(rows: list[list[int]], how: str) -> list[int]:
    pads = {"none": (0, 0, 0), "left": (3, 0, 0), "right": (0, 0, 3), "between": (1, 2, 1)}[how]
    left, between, right = ([PAD] * n for n in pads)
    row = [token for document in rows for token in (*between, *document)]
    return [*left, *row[pads[1] :], *right]


def apart(rows: list[list[int]]) -> Tensor:
    """Each document in a row of its own."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])


def logits_and_gradients(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the real tokens in order, and gradients of a loss that weighs each of them."""
    model.zero_grad()
    logits = model(ids)[0][ids.ne(PAD)]  # (real tokens, V)
    (logits.log_softmax(-1).diagonal().sum() / len(logits) + logits.square().mean()).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("how", ["none", "left", "right", "between"])
@pytest.mark.parametrize("checkpoints", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_documents_together_equal_documents_apart(kind: str, checkpoints: bool, how: str) -> None:
    settings: dict[str, Any] = dict(
        dropout=0.0, attention_dropout=0.0, checkpoint_activations=checkpoints
    )
    together = decoder(std=0.1, **KINDS[kind], **settings, document_attention=True).train()
    plain = decoder(std=0.1, **KINDS[kind], **settings).train()
    rows = [documents(seed) for seed in (1, 40)]
    blocks = torch.tensor([joined(row, how) for row in rows])
    found, found_gradients = logits_and_gradients(together, blocks)
    expected, expected_gradients = logits_and_gradients(plain, apart([*rows[0], *rows[1]]))
    torch.testing.assert_close(found, expected, atol=LOGIT_TOLERANCE, rtol=0)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[name], gradient, atol=GRADIENT_TOLERANCE, rtol=1e-5, msg=name
        )
    # It is the option that makes them equal.
    without = logits_and_gradients(plain, blocks)[0]
    assert (without - expected).abs().max() > 100 * LOGIT_TOLERANCE


@pytest.mark.slow  # code generation takes half a minute
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs"
)
def test_compiled_layers_keep_documents_apart() -> None:
    settings: dict[str, Any] = dict(
        **TINY, dropout=0.0, attention_dropout=0.0, document_attention=True
    )
    plain, compiled = decoder(std=0.1, **settings).train(), decoder(std=0.1, **settings).train()
    compile_layers(compiled.layers)
    blocks = torch.tensor([joined(documents(1), "none")])
    found, found_gradients = logits_and_gradients(compiled, blocks)
    expected, expected_gradients = logits_and_gradients(plain, blocks)
    torch.testing.assert_close(found, expected, atol=LOGIT_TOLERANCE, rtol=0)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[name], gradient, atol=GRADIENT_TOLERANCE, rtol=1e-5, msg=name
        )


@pytest.mark.parametrize(("checkpoints", "expected"), [(False, 1), (True, 0)])
def test_the_mask_is_kept_once_for_all_layers(checkpoints: bool, expected: int) -> None:
    """Of booleans each layer's attention would make numbers of its own and keep them.

    What goes through the hooks of a checkpointed layer is what --offload-activations moves.
    """
    settings: dict[str, Any] = dict(
        dropout=0.0, attention_dropout=0.0, checkpoint_activations=checkpoints
    )
    model = decoder(**{**TINY, "decoder_layers": 3}, **settings, document_attention=True).train()
    row = torch.tensor([joined(documents(1), "none")])
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and tensor.shape[1:] == (1, row.size(1), row.size(1)):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits, _ = model(row)
    assert logits.requires_grad
    assert len(kept) == expected


def test_positions_restart_and_the_mask_is_block_diagonal() -> None:
    row = torch.tensor([[7, EOS, PAD, 8, 9, EOS, EOS, 5, PAD]])
    positions, mask = positions_and_mask(row, PAD, longest=3, separator=EOS)
    expected = torch.tensor([0, 0, -1, 1, 2, 0, 0, 1, -1]) + POSITION_OFFSET
    assert torch.equal(positions[0], expected)  # padding has row 1
    assert mask is not None
    assert [keys.nonzero().flatten().tolist() for keys in mask[0, 0]] == [
        [0], [1], [1, 2], [1, 3], [1, 3, 4], [5], [6], [6, 7], [6, 7, 8],
    ]  # fmt: skip


def test_one_document_a_row_keeps_the_fast_kernels() -> None:
    row = torch.tensor([[EOS, 7, 8, PAD], [PAD, PAD, PAD, PAD]])
    assert positions_and_mask(row, PAD, longest=40, separator=EOS)[1] is None
    _, mask = positions_and_mask(torch.tensor([[7, EOS]]), PAD, longest=40, separator=EOS)
    assert mask is not None


@torch.no_grad()
def test_generation_is_as_without() -> None:
    prompt = torch.tensor([[EOS, 7, 8, 9, 10]])
    found = []
    for option in (False, True):
        model = decoder(**TINY, document_attention=option)
        steps = cached_logits(model, prompt.tolist(), [3])
        found += [torch.stack(steps), model(prompt)[0]]
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], atol=LOGIT_TOLERANCE, rtol=0)


def losses(folder: Path, data: Path, mode: str, batch_size: int, *options: Any) -> list[float]:
    """Loss of one update over a whole small split, all of it in one batch."""
    recorder = Recorder(folder / mode)
    ended = train(
        data, folder / f"run-{mode}", "--sample-break-mode", mode, "--batch-size", batch_size,
        "--max-update", 1, "--disable-validation", "--no-save", "--dropout", 0,
        "--attention-dropout", 0, *options, prepare=recorder,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    return recorder.numbers("loss")


@pytest.mark.slow
def test_a_run_of_joined_documents_is_that_of_documents_apart(tmp_path: Path) -> None:
    """The same tokens are predicted from the same ones, whether a block is a document or many."""
    data = write_data(tmp_path / "data", documents=3, longest=10)
    expected = losses(tmp_path, data, "eos", 3)
    assert losses(tmp_path, data, "none", 1, "--document-attention") == pytest.approx(
        expected, rel=1e-5, abs=0
    )
    assert losses(tmp_path, data, "none", 1) != pytest.approx(expected, rel=1e-5, abs=0)
