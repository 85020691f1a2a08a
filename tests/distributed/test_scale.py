"""Every size in its layout, up to 175B on 992 ranks: what the engine leaves a rank is the formula's bytes.

Large layouts are built as one rank sees them, on the meta device; small ones really run, and there
the gradients that backward leaves and the state that the optimizer makes are counted too.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.layout_bytes import table
from metaseq_plugin.launch.rank_bytes import (
    LAYOUTS,
    VOCAB_SIZE,
    Layout,
    rank_bytes,
    rank_elements,
)
from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.held import local
from metaseq_plugin.optim.adamw import FairseqAdamW, Fp32StateAdamW
from metaseq_plugin.sizes import SIZES, OPTSize
from tests.fairseq_runs import write_data
from tests.meta_ranks import on_ranks, sharded_model
from tests.rank_runs import train_ranks

# As reference counts, not by our formula: Hugging Face's models have so many; 8m and 760m metaseq's.
PUBLISHED = {
    "8m": 7_490_560,
    "125m": 125_239_296,
    "350m": 331_196_416,
    "760m": 760_326_144,
    "1.3b": 1_315_758_080,
    "2.7b": 2_651_596_800,
    "6.7b": 6_658_473_984,
    "13b": 12_853_473_280,
    "30b": 29_974_540_288,
    "66b": 65_719_701_504,
    "175b": 174_604_468_224,
}
# Two more, in which nothing divides; in the second the last ranks hold nothing of most tensors.
UNEVEN = [("350m", Layout(1, 24)), ("8m", Layout(2, 200))]


def held_bytes(params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """What is really there: of the parameters, the memory under them, the gradients and the state."""
    return {
        "parameters": sum(local(p.detach()).nbytes for p in params),
        "parameter_memory": memory_under([local(p.detach()) for p in params]),
        "gradients": sum(local(p.grad).nbytes for p in params if p.grad is not None),
        "optimizer": sum(v.nbytes for p in params for v in optimizer.state[p].values()),
    }


def memory_under(tensors: list[Tensor]) -> int:
    """Bytes of the storages that ``tensors`` lie in, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def build_and_count(ranks: Grid, name: str) -> dict[str, int]:
    params = list(sharded_model(ranks, name, VOCAB_SIZE).parameters())
    assert all(p.is_meta and p.dtype == torch.float32 for p in params)
    optimizer = Fp32StateAdamW(params, fused=True)
    for param in params:
        param.grad = torch.empty_like(param)  # as FSDP2's: the shard's shape and type
        optimizer._state_of(param)
    return held_bytes(params, optimizer)


def expected(size: OPTSize, layout: Layout, rank: int, **shape: int) -> dict[str, int]:
    memory = rank_bytes(size, layout, rank=0, **shape).parameters
    return {**rank_bytes(size, layout, rank, **shape)._asdict(), "parameter_memory": memory}


def three_ranks(layout: Layout) -> list[int]:
    """The first, one in the middle of the grid, and the last."""
    middle = layout.num_shards // 2 * layout.model_parallel_size + layout.model_parallel_size // 2
    return [0, middle, layout.num_ranks - 1]


SMALL = [("8m", LAYOUTS["8m"]), ("125m", LAYOUTS["125m"]), *UNEVEN]
LARGE = [(name, layout) for name, layout in LAYOUTS.items() if name not in ("8m", "125m")]


@pytest.mark.parametrize(
    ("name", "layout"), [*SMALL, *(pytest.param(*row, marks=pytest.mark.slow) for row in LARGE)]
)
def test_the_engine_leaves_a_rank_what_the_formula_says(name: str, layout: Layout) -> None:
    ranks = three_ranks(layout)
    held = on_ranks(ranks, layout, build_and_count, name)
    assert held == [expected(SIZES[name], layout, rank) for rank in ranks]


def test_every_size_has_a_layout_and_a_published_count() -> None:
    assert list(LAYOUTS) == list(SIZES) == list(PUBLISHED)


@pytest.mark.parametrize(("name", "layout"), [*LAYOUTS.items(), *UNEVEN])
def test_all_ranks_together_hold_the_published_parameters_once(name: str, layout: Layout) -> None:
    held = [rank_elements(SIZES[name], layout, rank) for rank in range(layout.num_ranks)]
    first_part = held[:: layout.model_parallel_size]
    assert sum(e.cut for e in held) + sum(e.alike for e in first_part) == PUBLISHED[name]


def test_in_175b_the_first_118_shards_hold_the_same_and_the_others_less() -> None:
    layout, size = LAYOUTS["175b"], SIZES["175b"]
    totals = [rank_bytes(size, layout, rank).total for rank in range(layout.num_ranks)]
    by_shard = [totals[shard * 8 : shard * 8 + 8] for shard in range(124)]
    assert all(min(parts) == max(parts) for parts in by_shard)
    assert totals[: 118 * 8] == [2_873_903_760] * 118 * 8
    assert max(totals[118 * 8 :]) < totals[0]


def test_the_page_has_the_table_that_the_command_prints() -> None:
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    assert table() in page.read_text()


def count_after_updates(folder: Path, rank: int) -> None:
    """In a rank of a real run: write down what it holds right after an update, gradients included."""
    optimizer_class: Any = FairseqAdamW
    step = optimizer_class.step

    def counting_step(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        step(optimizer, *args, **kwargs)
        params = list(optimizer.params)
        held = held_bytes(params, optimizer.optimizer)
        held["gradient_memory"] = memory_under([local(p.grad) for p in params])
        (folder / f"held{rank}.json").write_text(json.dumps(held))

    optimizer_class.step = counting_step


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout(2, 2), Layout(1, 4)])
def test_a_rank_of_a_real_run_holds_what_the_formula_says(layout: Layout, tmp_path: Path) -> None:
    """Neither 3 rows on 2 shards nor 6 on 4 divide; of 6, the last shard has none."""
    data = write_data(tmp_path / "data", vocab_size=40)
    ranks = train_ranks(
        layout.num_ranks, data, tmp_path / "run", "--max-update", 2, "--decoder-embed-dim", 6,
        "--ddp-backend", "fully_sharded", "--use-sharded-state", "--no-save", "--disable-validation",
        "--model-parallel-size", layout.model_parallel_size, "--decoder-max-positions", 33,
        prepare=partial(count_after_updates, tmp_path),
    )  # fmt: skip
    assert [rank.status for rank in ranks] == [0] * layout.num_ranks, ranks
    size = OPTSize(layers=2, embed_dim=6, heads=2)
    for rank in range(layout.num_ranks):
        held = json.loads((tmp_path / f"held{rank}.json").read_text())
        due = expected(size, layout, rank, vocab_size=40, position_rows=35)
        assert held == {**due, "gradient_memory": due["parameter_memory"]}
