"""The criterion against fairseq's own, on a model that has no more than it needs."""

from types import SimpleNamespace
from typing import Any, Optional

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.data import Dictionary
from torch import Tensor, nn

import metaseq_plugin  # noqa: F401 (registers)
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion

PAD, VOCAB, DIM = 1, 30, 8


class TinyModel(nn.Module):
    """One tied embedding around a tanh."""

    vocab_shard = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, DIM)

    @property
    def output_weight(self) -> Tensor:
        return self.embed.weight

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, features_only: bool = False
    ) -> tuple[Tensor, Optional[Any]]:
        x = torch.tanh(self.embed(src_tokens))
        return (x if features_only else x @ self.embed.weight.t()), None

    def get_normalized_probs(self, net_output: tuple, log_probs: bool) -> Tensor:
        return torch.log_softmax(net_output[0].float(), -1)

    def get_targets(self, sample: dict, net_output: tuple) -> Tensor:
        return sample["target"]


def make_sample(padded: int, rows: int = 3) -> dict:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, VOCAB, (rows, 5), generator=generator)
    target[:, 5 - padded :] = PAD
    tokens = torch.randint(2, VOCAB, (rows, 5), generator=generator)
    return {
        "net_input": {"src_tokens": tokens, "src_lengths": target.ne(PAD).sum(1)},
        "target": target,
        "ntokens": int(target.ne(PAD).sum()),
        "nsentences": rows,
    }


TASK = SimpleNamespace(target_dictionary=Dictionary())


def outcome(criterion: Any, sample: dict) -> Any:
    model = TinyModel()
    loss, sample_size, log = criterion(model, sample)
    loss.backward()
    return loss.detach(), model.embed.weight.grad, sample_size, log


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("padded", [0, 2, 5])
@pytest.mark.parametrize("chunk", [0, 4])
def test_equals_fairseqs(sentence_avg: bool, padded: int, chunk: int) -> None:
    sample = make_sample(padded)
    ours = outcome(ChunkedCrossEntropyCriterion(TASK, sentence_avg, chunk), sample)
    theirs = outcome(CrossEntropyCriterion(TASK, sentence_avg), sample)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-6)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    assert ours[2] == theirs[2]
    assert {k: float(v) for k, v in ours[3].items()} == pytest.approx(
        {k: float(v) for k, v in theirs[3].items()}, rel=1e-6
    )


def test_wrong_ntokens_still_leaves_padding_out() -> None:
    sample = make_sample(2)
    right, *_ = outcome(ChunkedCrossEntropyCriterion(TASK, False, 0), sample)
    sample["ntokens"] = sample["target"].numel()
    wrong, *_ = outcome(ChunkedCrossEntropyCriterion(TASK, False, 0), sample)
    assert torch.allclose(right, wrong, rtol=1e-6)


def test_empty_batch() -> None:
    loss, gradient, sample_size, _ = outcome(
        ChunkedCrossEntropyCriterion(TASK, False, 0), make_sample(0, rows=0)
    )
    assert loss == 0
    assert sample_size == 0
    assert torch.equal(gradient, torch.zeros(VOCAB, DIM))


def test_dummy_batch_gives_zero_gradients() -> None:
    """fairseq multiplies the loss of an idle worker's batch by 0, in place."""
    model, criterion = TinyModel(), ChunkedCrossEntropyCriterion(TASK, False, 0)
    loss, _, _ = criterion(model, make_sample(0))
    loss *= 0
    (gradient,) = torch.autograd.grad(loss, model.embed.weight)
    assert not gradient.any()


def test_unreduced() -> None:
    sample = make_sample(2)
    ours, _, _ = ChunkedCrossEntropyCriterion(TASK, False, 0)(TinyModel(), sample, reduce=False)
    theirs, _, _ = CrossEntropyCriterion(TASK, False)(TinyModel(), sample, reduce=False)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_other_models_are_refused() -> None:
    class Other(nn.Module):
        pass

    with pytest.raises(UserError, match=r"`--criterion` must .* Set --criterion cross_entropy"):
        ChunkedCrossEntropyCriterion(TASK, False, 0)(Other(), make_sample(0))


def test_negative_chunk_is_refused() -> None:
    with pytest.raises(UserError, match="`--loss-chunk-tokens` must "):
        ChunkedCrossEntropyCriterion(TASK, False, -1)


def test_registered_class_is_ours() -> None:
    assert CRITERION_REGISTRY["chunked_cross_entropy"] is ChunkedCrossEntropyCriterion
