"""The softmax kernel's values, on the CPU, in Triton's interpreter; ``test_softmax_kernel.py`` runs this file.

    TRITON_INTERPRET=1 python -m pytest tests/modules/interpreted_softmax.py

The interpreter takes some tenths of a second a row, so there are few. n tokens, V columns.
"""

from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from metaseq_plugin.modules import softmax_kernel
from metaseq_plugin.modules.loss_softmax import gradient_scale
from metaseq_plugin.modules.vocab_shard import VocabShard

KINDS = [torch.bfloat16, torch.float16]
BLOCK = 64
COLUMNS = [BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 5]


class KnownRanks:
    """A ``VocabShard`` from column ``first`` on, which knows the ``whole`` logits (n, V) and need not ask other ranks."""

    def __init__(self, whole: Tensor, target: Tensor, first: int, count: int) -> None:
        self.own = whole[:, first : first + count].double()
        self.lprobs = whole.double().log_softmax(1)
        self.target, self.first, self.count = target[:, None], first, count

    def locate(self, target: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        assert num_rows == self.count
        return VocabShard(None, self.first).locate(target, num_rows)  # type: ignore[arg-type]

    def share_out(
        self, log_sum_exp: Tensor, target_lprob: Tensor, is_here: Tensor
    ) -> tuple[Tensor, Tensor]:
        index, _ = self.locate(self.target, self.count)
        near(log_sum_exp, self.own.logsumexp(1, keepdim=True))
        near(target_lprob, self.own.log_softmax(1).gather(1, index))
        share = self.lprobs[:, self.first : self.first + self.count].logsumexp(1, keepdim=True)
        return self.lprobs.gather(1, self.target).float(), share.float()


def near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


def check(logits: Tensor, target: Tensor, first: int = 0, count: Optional[int] = None) -> None:
    """The kernel's numbers, for ``count`` columns from ``first`` on, against those of fp64."""
    lprobs = logits.double().log_softmax(1)
    own = logits[:, first:].clone() if count is None else logits[:, first : first + count].clone()
    shard: Any = None if count is None else KnownRanks(logits, target, first, count)
    scale = gradient_scale(logits.dtype)
    near(
        softmax_kernel.softmax_(own.clone(), target, shard, None), lprobs.gather(1, target[:, None])
    )

    near(softmax_kernel.softmax_(own, target, shard, scale), lprobs.gather(1, target[:, None]))
    gradient = lprobs.exp().scatter(1, target[:, None], lprobs.gather(1, target[:, None]).expm1())
    expected = (gradient * scale)[:, first : first + own.size(1)]
    # The interpreter cuts bf16 off where a GPU rounds, and flushes what is below the normal numbers; of p - 1, fp32 knows
    # nothing below 1e-7.
    kind = torch.finfo(logits.dtype)
    least = max(1.2 * kind.smallest_normal, 1e-7 * scale)
    torch.testing.assert_close(own.double(), expected, rtol=kind.eps, atol=least)


def batch(columns: int, kind: torch.dtype, sharpness: float) -> tuple[Tensor, Tensor]:
    """Logits (n, V) and targets (n,), one of which is the likeliest word, one the last."""
    torch.manual_seed(columns)
    logits = (torch.randn(4, columns) * sharpness).to(kind)
    target = torch.tensor([0, columns // 2, columns - 1, int(logits[3].argmax())])
    return logits, target


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_kernel, "BLOCK", BLOCK)


@pytest.mark.parametrize("sharpness", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_all_columns(columns: int, kind: torch.dtype, sharpness: float) -> None:
    check(*batch(columns, kind, sharpness))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "count"), [(0, 70), (70, 127)])
def test_some_columns(first: int, count: int, kind: torch.dtype) -> None:
    check(*batch(197, kind, 3.0), first=first, count=count)


def test_a_nearly_certain_target() -> None:
    """p - 1 is far below what 16 bits tell from p."""
    logits = torch.zeros(2, 100, dtype=torch.bfloat16)
    logits[0, 7], logits[1, 7] = 12.0, 14.0
    check(logits, torch.tensor([7, 7]))


def test_columns_of_minus_infinity() -> None:
    """Overflowed logits, here a whole block of them, are words of no probability."""
    logits, target = batch(3 * BLOCK, torch.float16, 1.0)
    logits[:, 1 : BLOCK + 1] = -torch.inf
    check(logits, target)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_shows(value: float) -> None:
    """fairseq's loss scaler steps back on it."""
    logits, target = batch(100, torch.float16, 1.0)
    logits[:, 50] = value
    assert softmax_kernel.softmax_(logits, target, None, 1.0).isnan().all()


def test_a_target_that_is_no_column() -> None:
    logits, _ = batch(100, torch.bfloat16, 1.0)
    target = torch.tensor([0, 100, -1, 5])
    found = softmax_kernel.softmax_(logits, target, None, None).isnan().squeeze(1)
    assert found.tolist() == [False, True, True, False]


def test_no_tokens() -> None:
    nothing = torch.empty(0, 100, dtype=torch.bfloat16)
    assert softmax_kernel.softmax_(nothing, torch.empty(0).long(), None, 1.0).shape == (0, 1)
