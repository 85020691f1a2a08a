"""The chunked loss over a vocabulary cut into rows, on 2 and 4 gloo ranks, against the uncut one.

All ranks are forked once for the whole module; they compute every case and leave the results in files.
The two ranks of the small group are the last two of four, so that a rank's place in its group is not
its global rank, and the vocabulary divides evenly by neither number of ranks.
"""

import multiprocessing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional

import pytest
import torch
import torch.distributed as dist
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyCriterion
from metaseq_plugin.modules.chunked_loss import chunked_cross_entropy, token_losses
from metaseq_plugin.modules.vocab_shard import VocabShard

WORLD = (0, 1, 2, 3)
PAIR = (2, 3)
GROUPS = (PAIR, WORLD)
TOKENS, DIM, VOCAB, PAD = 37, 12, 51, 1
TIMEOUT_SECONDS = 60


class Case(NamedTuple):
    """What the loss is called with."""

    features: Tensor
    weight: Tensor
    target: Tensor
    ignore_index: int = PAD
    chunk: int = 7  # 37 tokens are 5 chunks of 7 and one of 2
    loss_scale: float = 1.0


class Outcome(NamedTuple):
    """What came out, and the collectives on the way: name and bytes of each tensor."""

    loss: Tensor
    losses: Tensor
    dx: Tensor
    dw: Tensor
    collectives: list[tuple[str, list[int]]]


def make_cases() -> dict[str, Case]:
    torch.manual_seed(0)
    x, w = torch.randn(TOKENS, DIM), torch.randn(VOCAB, DIM) * 0.3
    target = torch.randint(0, VOCAB, (TOKENS,))
    target[::5] = PAD
    best = (x @ w.t()).argmax(1)
    best[-1] = (best[-1] + 1) % VOCAB
    lonely = w.clone()  # all the probability is with one word of the last rank
    lonely[-1] = x.sum(0)
    small = w * 1e-3  # nearly uniform probabilities, as at the start of training
    wide = torch.randn(40_001, DIM) * 1e-3  # 1/V is subnormal in fp16
    spread = torch.where(target == PAD, PAD, target * 700)
    cases = {f"chunks of {n}": Case(x, w, target, chunk=n) for n in (0, 1, 7, 37, 100)}
    cases |= {f"{n} tokens": Case(x[:n], w, target[:n]) for n in (0, 1, 14)}
    cases |= {
        "nothing counts": Case(x, w, torch.full((TOKENS,), PAD)),
        "ignored row of the last rank": Case(x, w, target, ignore_index=VOCAB - 1),
        "ignored row of no rank": Case(x, w, target.masked_fill(target == PAD, -100), -100),
        "logits of 100": Case(x * 1e2, w, best),
        "logits of 10,000": Case(x * 1e4, w, best),
        "one rank has all": Case(x.abs() * 1e3, lonely, target),
        "fp16": Case(x.half(), wide.half(), spread, loss_scale=2.0**12),
        "fp16 sharp": Case(x.half(), w.half(), target, loss_scale=2.0**7),
        "bf16": Case(x.bfloat16(), w.bfloat16(), target),
        "bf16 uniform": Case(x.bfloat16(), small.bfloat16(), target),
        "fp32 weight under fp16": Case(x.half(), w, target),
    }
    return cases


CASES = make_cases()
SHARP = ("logits of 100", "logits of 10,000", "one rank has all")
HALF = {name: case for name, case in CASES.items() if case.features.dtype != torch.float32}


class Collectives(TorchDispatchMode):
    """Records every collective, whichever function it was called through."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [t.nbytes for t in tree_leaves(args) if isinstance(t, Tensor)]
            self.calls.append((func.__name__.split(".")[0], sizes))
        return func(*args, **(kwargs or {}))


def outcome(case: Case, weight: Tensor, shard: Optional[VocabShard]) -> Outcome:
    x, w = case.features.clone().requires_grad_(), weight.clone().requires_grad_()
    rest = (case.target, case.ignore_index, case.chunk, shard)
    with Collectives() as collectives:
        loss = chunked_cross_entropy(x, w, *rest)
        dx, dw = torch.autograd.grad(loss * case.loss_scale, (x, w))
    return Outcome(loss.detach(), token_losses(x, w, *rest), dx, dw, collectives.calls)


class FeaturesModel(nn.Module):
    """Says its features; for the criterion."""

    def __init__(self, case: Case, weight: Tensor, shard: Optional[VocabShard]) -> None:
        super().__init__()
        self.features, self.output_weight, self.vocab_shard = case.features, weight, shard

    def forward(self, features_only: bool) -> tuple[Tensor, None]:
        assert features_only
        return self.features.unsqueeze(0), None


def criterion_loss(weight: Tensor, shard: Optional[VocabShard], reduce: bool) -> Tensor:
    case = CASES["chunks of 7"]
    criterion = ChunkedCrossEntropyCriterion(
        SimpleNamespace(target_dictionary=Dictionary()), sentence_avg=False, loss_chunk_tokens=7
    )
    target = case.target.unsqueeze(0)
    counts = {"ntokens": int(target.ne(PAD).sum()), "nsentences": len(target)}
    sample = {"net_input": {}, "target": target, **counts}
    loss, _, _ = criterion(FeaturesModel(case, weight, shard), sample, reduce)
    return loss


def cut(
    weight: Tensor, ranks: tuple[int, ...], rank: int, group: dist.ProcessGroup
) -> tuple[Tensor, VocabShard]:
    """The rows that ``rank`` of ``ranks`` holds, and what says so."""
    parts = weight.tensor_split(len(ranks))
    place = ranks.index(rank)
    return parts[place], VocabShard(group, sum(map(len, parts[:place])))


def compute(rank: int, folder: Path) -> None:
    """All that rank ``rank`` computes, written to a file of its own."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=len(WORLD),
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    results: dict[tuple[int, str], Any] = {}
    for ranks in GROUPS:
        group = dist.new_group(list(ranks))
        if rank not in ranks:
            continue
        size = len(ranks)
        for name, case in CASES.items():
            results[size, name] = outcome(case, *cut(case.weight, ranks, rank, group))._asdict()
        mine = cut(CASES["chunks of 7"].weight, ranks, rank, group)
        results[size, "criterion"] = [criterion_loss(*mine, reduce) for reduce in (True, False)]
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def uncut() -> dict[str, dict[str, Any]]:
    """By case: the outcome of one process with the whole vocabulary."""
    return {name: outcome(case, case.weight, None)._asdict() for name, case in CASES.items()}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, uncut: dict) -> list[dict]:
    """By rank: {(ranks in the group, case): outcome}. After ``uncut``, so that forks find torch warm."""
    folder = tmp_path_factory.mktemp("ranks")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=compute, args=(rank, folder)) for rank in WORLD]
    for child in children:
        child.start()
    for child in children:
        child.join(2 * TIMEOUT_SECONDS)
    assert [child.exitcode for child in children] == [0] * len(WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in WORLD]


@pytest.fixture(params=GROUPS, ids=lambda ranks: f"{len(ranks)} ranks")
def of_ranks(request: pytest.FixtureRequest, computed: list[dict]) -> Any:
    """``of_ranks(case)`` is what each rank of a group computed."""
    ranks = request.param

    def find(name: str) -> list[Any]:
        found = [computed[rank][len(ranks), name] for rank in ranks]
        return found if name == "criterion" else [Outcome(**one) for one in found]

    return find


def gathered(outcomes: list[Outcome]) -> dict[str, Tensor]:
    """What the ranks computed together; 16-bit parts are summed in fp32."""
    return {
        "loss": outcomes[0].loss,
        "losses": outcomes[0].losses,
        "dx": torch.stack([one.dx.float() for one in outcomes]).sum(0),
        "dw": torch.cat([one.dw for one in outcomes]),
    }


def relative_error(got: Tensor, expected: Tensor) -> float:
    size = expected.double().norm()
    error = (got.double() - expected.double()).norm()
    return float(error if size == 0 else error / size)


def in_fp64(case: Case) -> dict[str, Tensor]:
    """By PyTorch, from the same numbers."""
    x, w = case.features.double().requires_grad_(), case.weight.to(case.features.dtype).double()
    w.requires_grad_()
    losses = nn.functional.cross_entropy(
        x @ w.t(), case.target, ignore_index=case.ignore_index, reduction="none"
    )
    dx, dw = torch.autograd.grad(losses.sum() * case.loss_scale, (x, w))
    return {"loss": losses.sum().detach(), "losses": losses.detach(), "dx": dx, "dw": dw}


@pytest.mark.parametrize("name", sorted(CASES.keys() - HALF.keys() - set(SHARP)))
def test_equals_the_uncut_loss(of_ranks: Any, uncut: dict, name: str) -> None:
    expected = uncut[name]
    for part, got in gathered(of_ranks(name)).items():
        assert got.shape == expected[part].shape
        assert relative_error(got, expected[part]) < 1e-6, part


@pytest.mark.parametrize("name", SHARP)
def test_sharp_distributions_are_as_exact_as_uncut(of_ranks: Any, uncut: dict, name: str) -> None:
    """Nearly certain targets, impossible ones, and ranks whose whole share underflows to 0."""
    exact = in_fp64(CASES[name])
    for part, got in gathered(of_ranks(name)).items():
        assert torch.isfinite(got).all()
        limit = max(1e-6, 2 * relative_error(uncut[name][part], exact[part]))
        assert relative_error(got, exact[part]) <= limit, part


@pytest.mark.parametrize("name", HALF)
def test_16_bits(of_ranks: Any, uncut: dict, name: str) -> None:
    """As the uncut loss in 16 bits must be, and near it too: logits are rounded before either."""
    case, outcomes = CASES[name], of_ranks(name)
    assert {one.dx.dtype for one in outcomes} == {case.features.dtype}
    assert {one.dw.dtype for one in outcomes} == {case.weight.dtype}
    exact = in_fp64(case)
    limit = 2e-3 if case.features.dtype == torch.float16 else 1e-2
    for part, got in gathered(outcomes).items():
        assert relative_error(got, exact[part]) < limit, part
    for part in ("loss", "losses"):
        assert relative_error(gathered(outcomes)[part], uncut[name][part]) < 1e-6


def test_fp16_probabilities_do_not_underflow(of_ranks: Any) -> None:
    """Rows of words that are no target hold only probabilities: 1/V times a feature."""
    case = CASES["fp16"]
    others = torch.ones(len(case.weight), dtype=torch.bool)
    others[case.target] = False
    dw = gathered(of_ranks("fp16"))["dw"]
    assert relative_error(dw[others], in_fp64(case)["dw"][others]) < 2e-3


@pytest.mark.parametrize("name", CASES)
def test_ranks_agree_to_the_bit(of_ranks: Any, name: str) -> None:
    outcomes = of_ranks(name)
    for other in outcomes[1:]:
        assert torch.equal(other.loss, outcomes[0].loss)
        assert torch.equal(other.losses, outcomes[0].losses)


@pytest.mark.parametrize(
    ("name", "chunks"),
    [
        ("0 tokens", []),
        ("1 tokens", [1]),
        ("14 tokens", [7, 7]),
        ("chunks of 7", [7, 7, 7, 7, 7, 2]),
        ("chunks of 0", [37]),
        ("fp16", [7, 7, 7, 7, 7, 2]),
    ],
)
def test_one_collective_a_chunk(of_ranks: Any, name: str, chunks: list[int]) -> None:
    """8 bytes a token from each rank, forward and backward together."""
    outcomes = of_ranks(name)
    for one in outcomes:
        assert one.collectives == [
            ("_allgather_base_", [n * 8 * len(outcomes), n * 8]) for n in chunks
        ]


def test_through_the_criterion(of_ranks: Any) -> None:
    weight = CASES["chunks of 7"].weight
    for reduce, got in zip((True, False), zip(*of_ranks("criterion")), strict=True):
        expected = criterion_loss(weight, None, reduce)
        assert got[0].shape == expected.shape
        for loss in got:
            assert torch.equal(loss, got[0])
            assert torch.allclose(loss, expected, rtol=1e-6)
