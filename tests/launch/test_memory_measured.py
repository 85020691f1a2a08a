"""The plan of memory against what ranks of real runs on this machine's CPU allocate in an update, within 10%.

Fourteen runs: sizes, one rank and two, data parallel, sharded and tensor parallel, with recomputation and without.
``tests/allocated.py`` counts.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.launch.plan.memory import memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.modules.linear import computes_in
from metaseq_plugin.sizes import SIZES
from tests.allocated import allocated_in_update

TOLERANCE = 0.10
FLAGS = {
    "checkpoint_activations": "--checkpoint-activations",
    "sequence_parallel": "--sequence-parallel",
}
CPU = MemorySettings(
    batch_size=2, tokens_per_sample=256, fully_sharded=False, vocab_size=8192, on_gpu=False
)
SHARDED = CPU._replace(fully_sharded=True)
RECOMPUTED: dict[str, Any] = {"checkpoint_activations": True}
SELECTIVE: dict[str, Any] = {**RECOMPUTED, "recompute": "selective"}

# (size, layers that are left of it, model parts, data-parallel ranks, settings)
RUNS = [
    ("8m", 4, 1, 1, CPU._replace(batch_size=8)),
    ("8m", 4, 1, 2, SHARDED._replace(batch_size=8)),
    ("8m", 4, 2, 1, CPU._replace(batch_size=8, **RECOMPUTED)),
    ("125m", 2, 1, 1, CPU),
    ("125m", 2, 1, 1, CPU._replace(**RECOMPUTED, vocab_size=512)),
    ("125m", 2, 1, 2, CPU._replace(attention_dropout=0.0)),
    ("125m", 2, 1, 2, SHARDED),
    ("125m", 3, 1, 2, SHARDED._replace(**RECOMPUTED, vocab_size=512)),
    ("125m", 2, 2, 1, CPU._replace(batch_size=4)),
    ("125m", 2, 2, 1, SHARDED._replace(sequence_parallel=True, vocab_size=512)),
    # Emulated, it takes minutes.
    pytest.param("350m", 2, 1, 2, SHARDED._replace(precision="bf16", dropout=0.0), marks=pytest.mark.skipif(
        not computes_in(torch.bfloat16), reason="needs a CPU that computes in bfloat16")),
    ("350m", 2, 2, 1, CPU._replace(**RECOMPUTED, tokens_per_sample=512, vocab_size=1024)),
    ("8m", 4, 1, 1, CPU._replace(batch_size=8, **SELECTIVE, checkpoint_layers=2, vocab_size=512)),
    ("8m", 1, 1, 1, CPU._replace(batch_size=1, **SELECTIVE, tokens_per_sample=2048, vocab_size=512)),
]  # fmt: skip


def options(name: str, layers: int, model_parts: int, settings: MemorySettings) -> list[Any]:
    words: list[Any] = ["--arch", f"opt_{name}", "--decoder-layers", layers, "--max-update", 2]
    for option, value in (
        ("decoder-embed-dim", SIZES[name].embed_dim),
        ("decoder-attention-heads", SIZES[name].heads),
        ("model-parallel-size", model_parts),
        ("dict-size", settings.vocab_size),
        ("batch-size", settings.batch_size),
        ("tokens-per-sample", settings.tokens_per_sample),
        ("dropout", settings.dropout),
        ("attention-dropout", settings.attention_dropout),
        ("recompute", settings.recompute),
        ("checkpoint-layers", settings.checkpoint_layers),
    ):
        words += [] if value is None else [f"--{option}", value]
    words += [flag for field, flag in FLAGS.items() if settings._asdict()[field]]
    words += [] if settings.precision == "fp32" else [f"--{settings.precision}"]
    if settings.fully_sharded:
        words += ["--ddp-backend", "fully_sharded", "--use-sharded-state"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers", "model_parts", "data_ranks", "settings"), RUNS)
def test_a_real_rank_allocates_what_is_planned(
    name: str,
    layers: int,
    model_parts: int,
    data_ranks: int,
    settings: MemorySettings,
    tmp_path: Path,
) -> None:
    words = options(name, layers, model_parts, settings)
    seen = allocated_in_update(model_parts * data_ranks, tmp_path, *words)
    size = SIZES[name]._replace(layers=layers)
    shards = data_ranks if settings.fully_sharded else 1
    plan = memory(size, Layout(model_parts, shards, data_ranks), settings)
    off = [f"{plan.peak / most - 1:+.1%}" for most in seen]
    print(f"planned {plan.peak:,}, {plan.at_peak.name}; seen {seen}; off by {off}")  # noqa: T201
    for most in seen:
        assert plan.peak == pytest.approx(most, rel=TOLERANCE), off
