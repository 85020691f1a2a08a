"""The gradient noise scale: by hand, of gradients whose noise is known, and of real runs in every layout."""

import json
import math
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
import torch

from metaseq_plugin.ledger.noise_scale import Estimate, Running, Sums, estimate
from tests.fairseq_runs import train
from tests.rank_runs import train_ranks
from tests.spiked import write_counting


def sums(norms: Sequence[float], sizes: Sequence[float]) -> Sums:
    """Of mean gradients with these norms, each of so many tokens."""
    return Sums(
        sum(norm**2 for norm in norms), sum(1 / size for size in sizes), len(sizes), sum(sizes)
    )


def test_by_hand() -> None:
    # Two batches of 10: q = (5 + 3)/2 = 4, |g|² = 2.5, so tr = 1.5/(1/10 − 1/20) = 30 and |G|² = 2.5 − 30/20 = 1.
    found = estimate(sums([5**0.5, 3**0.5], [10, 10]), 2.5**0.5)
    assert found == pytest.approx(Estimate(30, 1))
    # Of 10 and 30: h = 2/30, 1/B = 1/40, so tr = 1.5/(1/24) = 36, and |G|² = 2.5 − 36/40 = 1.6.
    found = estimate(sums([5**0.5, 3**0.5], [10, 30]), 2.5**0.5)
    assert found == pytest.approx(Estimate(36, 1.6))


@pytest.mark.parametrize("small", [sums([], []), sums([2.0], [10])])
def test_a_batch_that_is_the_whole_one_says_nothing(small: Sums) -> None:
    assert estimate(small, 2.0) is None


def test_the_averages_are_divided_and_not_the_quotients_averaged() -> None:
    running = Running()
    assert running.scale is None
    running.add(Estimate(30, -1))
    assert running.scale is None  # not yet above 0
    running.add(Estimate(50, 5))
    # 0.05 · (0.95 · 30 + 50) over 0.05 · (0.95 · −1 + 5)
    assert running.scale == pytest.approx(78.5 / 4.05)


@pytest.mark.parametrize("sizes", [[16, 16, 16, 16], [4, 60], [8, 8, 240]])
def test_a_noise_that_is_known_is_found(sizes: "list[int]") -> None:
    """Gradients of tokens are G + noise, of another size in each direction: tr(Σ)/|G|² is 50 to 1."""
    random = np.random.default_rng(0)
    gradient = random.normal(size=40)
    deviations = random.uniform(0.5, 2.0, size=40)
    gradient *= math.sqrt((deviations**2).sum() / 50 / (gradient**2).sum())
    trace, square = (deviations**2).sum(), (gradient**2).sum()
    found = []
    for _ in range(4000):
        means = [gradient + deviations * random.normal(size=40) / size**0.5 for size in sizes]
        mean = sum(size * each for size, each in zip(sizes, means, strict=True)) / sum(sizes)
        norms = [float(np.linalg.norm(each)) for each in means]
        found.append(estimate(sums(norms, sizes), float(np.linalg.norm(mean))))
    for values, truth in zip(zip(*found, strict=True), (trace, square), strict=True):
        standard_error = np.std(values) / len(values) ** 0.5
        assert standard_error < 0.03 * truth
        assert abs(np.mean(values) - truth) < 4 * standard_error


# Real runs.

OPTIONS = (
    "--disable-validation", "--num-workers", 0, "--dropout", 0, "--attention-dropout", 0, "--max-update", 8,
    "--log-noise-scale", 4, "--ledger-interval", 4, "--log-format", "json", "--log-interval", 4,
)  # fmt: skip
FSDP = ("--ddp-backend", "fully_sharded")


def rows(run: Path) -> "list[dict[str, Any]]":
    return [json.loads(line) for line in (run / "ledger/updates.jsonl").read_text().splitlines()]


def keeping_gradients(path: Path) -> Any:
    """For ``train``: of update 4, what each of its batches adds to the gradients, and how many tokens it has."""

    def prepare(rank: int = 0) -> None:
        from fairseq.tasks.fairseq_task import FairseqTask

        train_step = FairseqTask.train_step
        kept: "list[Any]" = []

        def step(*args: Any, **kwargs: Any) -> Any:
            model = kwargs["model"]
            before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            result = train_step(*args, **kwargs)
            if kwargs["update_num"] == 3:
                added = [
                    (p.grad if b is None else p.grad - b).reshape(-1)
                    for p, b in zip(model.parameters(), before, strict=True)
                ]
                kept.append((torch.cat(added).double(), float(result[1])))
                torch.save(kept, path)
            return result

        FairseqTask.train_step = step

    return prepare


def expected(batches: "list[Any]", first: int = 0) -> Estimate:
    """Of the batches of an update, each a small one; or of so many first ones, which make up the only one."""
    gradient, tokens = sum(g for g, _ in batches), sum(n for _, n in batches)
    if first:
        joined = batches[:first]
        batches = [(sum(g for g, _ in joined), sum(n for _, n in joined))]
    norms = [float(torch.linalg.vector_norm(g)) / n for g, n in batches]
    small = sums(norms, [n for _, n in batches])._replace(tokens=tokens)
    found = estimate(small, float(torch.linalg.vector_norm(gradient)) / tokens)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counting(tmp_path_factory.mktemp("noise") / "data")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, four batches an update."""
    run = tmp_path_factory.mktemp("noise") / "run"
    ended = train(
        data, run, *OPTIONS, "--update-freq", 4, prepare=keeping_gradients(run / "kept.pt")
    )
    assert ended.status == 0, ended
    return run


def check(run: Path, truth: Estimate) -> None:
    first = rows(run)[0]
    found = Estimate(first["noise_trace"], first["gradient_square"])
    # Differences of squares, that are larger than they are.
    assert found.trace == pytest.approx(truth.trace, rel=1e-3)
    assert found.square == pytest.approx(truth.square, rel=1e-3, abs=1e-5 * truth.trace)


@pytest.mark.slow
def test_it_is_that_of_the_batches(alone: Path) -> None:
    check(alone, expected(torch.load(alone / "kept.pt")))
    assert len(rows(alone)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "batches", "first"),
    [((), 2, 0), (("--ddp-backend", "legacy_ddp"), 2, 0), (("--checkpoint-activations",), 2, 0), (FSDP, 2, 2),
     ((*FSDP, "--no-reshard-after-forward", "--use-sharded-state"), 2, 2), (("--model-parallel-size", 2), 4, 0),
     (("--model-parallel-size", 2, *FSDP), 4, 1)],
    ids=["ddp2", "legacy2", "checkpointed", "fsdp2", "zero2", "tp2", "tp2-fsdp"],
)  # fmt: skip
def test_every_layout_has_the_same(
    layout: "tuple[Any, ...]", batches: int, first: int, data: Path, alone: Path, tmp_path: Path
) -> None:
    ended = train_ranks(2, data, tmp_path, *OPTIONS, "--update-freq", batches, *layout)
    assert [rank.status for rank in ended] == [0, 0], ended
    check(tmp_path, expected(torch.load(alone / "kept.pt"), first))


@pytest.mark.slow
def test_log_lines_have_it(data: Path, tmp_path: Path) -> None:
    """From the first time that it is known."""
    often = ("--log-noise-scale", 1, "--ledger-interval", 1, "--log-interval", 1)
    ended = train(data, tmp_path, *OPTIONS, *often, "--update-freq", 4)
    assert ended.status == 0, ended
    known = {row["update"]: row["noise_scale"] for row in rows(tmp_path)}
    assert any(known.values())
    lines = [line for line in ended.output.splitlines() if "| train_inner |" in line]
    said = [json.loads(line[line.index("{") :]) for line in lines]
    latest = None
    for line in said:
        latest = known[int(line["num_updates"])] or latest
        shown = None if latest is None else pytest.approx(latest, rel=1e-3)
        assert (float(line["noise_scale"]) if "noise_scale" in line else None) == shown


@pytest.mark.slow
def test_ranks_are_enough_and_the_run_is_the_same(data: Path, tmp_path: Path) -> None:
    """Two ranks with a batch each: and what is logged changes nothing of what is trained."""
    from tests.recorder import Recorder

    recorders = [Recorder(tmp_path / name, weights=True) for name in ("a", "b")]
    for recorder, more in zip(recorders, ((), ("--log-noise-scale", 0)), strict=True):
        run = tmp_path / f"run-{recorder.path.name}"
        ended = train_ranks(2, data, run, *OPTIONS, *more, prepare=recorder)
        assert [rank.status for rank in ended] == [0, 0], ended
    assert recorders[0].rows() == recorders[1].rows()
    kept, others = (recorder.weights() for recorder in recorders)
    assert all(torch.equal(kept[name], others[name]) for name in kept)
    assert "noise_trace" in rows(tmp_path / "run-a")[0]
    assert "noise_trace" not in rows(tmp_path / "run-b")[0]
