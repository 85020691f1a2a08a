"""What a plan says of a rank's memory, by itself: which setting takes what, and what fits."""

from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.criterions.chunked_cross_entropy import ChunkedCrossEntropyConfig
from metaseq_plugin.launch.plan.memory import Memory, fits, headroom, memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.rank_bytes import LAYOUTS, rank_bytes
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.models.opt import OPTConfig
from metaseq_plugin.sizes import SIZES
from metaseq_plugin.tasks.opt_dummy_lm import OPTDummyLMConfig

A100 = 80 * 10**9
RECORD = MemorySettings(batch_size=8, precision="fp16", checkpoint_activations=True)


def plan(name: str, layout: Layout, settings: MemorySettings) -> Memory:
    return memory(SIZES[name], layout, settings)


def test_175b_fits_its_gpus_as_it_was_trained_and_not_without_recomputation() -> None:
    layout = LAYOUTS["175b"]
    recorded = plan("175b", layout, RECORD)
    assert recorded.at_peak.name == "backward"
    assert fits(recorded, A100)
    assert headroom(recorded, A100) == A100 - recorded.peak > 0
    kept = plan("175b", layout, RECORD._replace(checkpoint_activations=False))
    assert not fits(kept, A100)
    assert headroom(kept, A100) < 0


def test_what_a_process_has_before_its_model_counts_against_the_device() -> None:
    recorded = plan("175b", LAYOUTS["175b"], RECORD)
    assert fits(recorded, recorded.peak)
    assert not fits(recorded, recorded.peak, baseline=1)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_between_two_updates_a_rank_holds_its_states_and_nothing_else(
    name: str, layout: Layout
) -> None:
    (update,) = (m for m in plan(name, layout, RECORD).moments if m.name == "update")
    assert update[1:4] == tuple(rank_bytes(SIZES[name], layout, rank=0))
    assert update.total == sum(update[1:4])


def test_states_without_shards_by_hand() -> None:
    """n parameters, 16·12 + 4 tensors: the table of ``states.py``."""
    n, counts = 125_239_296, 4 * 196
    buckets = {1: 0, 2: 1}
    for ranks, has_buckets in buckets.items():
        for precision, parameters, gradients, optimizer, bucket in (
            ("fp32", 4 * n, 4 * n, 8 * n, 4 * n),
            ("bf16", 2 * n, 6 * n, 12 * n, 2 * n),
            ("memory_efficient_fp16", 2 * n, 2 * n, 8 * n, 2 * n),
        ):
            settings = MemorySettings(precision=precision, fully_sharded=False)
            update = plan("125m", Layout(1, 1, ranks), settings).moments[-1]
            assert update[1:4] == (parameters, gradients, optimizer + counts), precision
            assert update.gradient_buffers == bucket * has_buckets


def test_memory_efficient_updates_copy_some_parameters_at_a_time() -> None:
    settings = MemorySettings(precision="memory_efficient_fp16", fully_sharded=False)
    assert plan("125m", Layout(), settings).moments[-1].workspace == 8 * 67_108_864
    assert plan("8m", Layout(), settings).moments[-1].workspace == 8 * 7_490_560


LESS = [
    ("recomputation", MemorySettings(batch_size=8), {"checkpoint_activations": True}),
    (
        "recomputation of half the layers",
        MemorySettings(batch_size=8),
        {"checkpoint_activations": True, "checkpoint_layers": 12},
    ),
    (
        "recomputation of all of them",
        MemorySettings(batch_size=8, checkpoint_activations=True, checkpoint_layers=12),
        {"checkpoint_layers": None},
    ),
    (
        "selective recomputation",
        MemorySettings(batch_size=8),
        {"checkpoint_activations": True, "recompute": "selective"},
    ),
    (
        "recomputation of all of a layer",
        MemorySettings(batch_size=8, checkpoint_activations=True, recompute="selective"),
        {"recompute": "whole"},
    ),
    ("sequence parallelism", MemorySettings(batch_size=8), {"sequence_parallel": True}),
    ("bf16", MemorySettings(batch_size=8), {"precision": "bf16"}),
    (
        "the loss in chunks",
        MemorySettings(batch_size=8, chunked_loss=False),
        {"chunked_loss": True},
    ),
    ("ZeRO-3", MemorySettings(reshard_after_forward=False), {"reshard_after_forward": True}),
    ("offloaded states", MemorySettings(), {"cpu_offload": True}),
    ("shards", MemorySettings(fully_sharded=False), {"fully_sharded": True}),
    (
        "offloaded inputs",
        MemorySettings(batch_size=8, checkpoint_activations=True),
        {"offload_activations": True},
    ),
]


@pytest.mark.parametrize(
    ("settings", "change"), [row[1:] for row in LESS], ids=[r[0] for r in LESS]
)
def test_what_should_save_memory_does(settings: MemorySettings, change: dict[str, Any]) -> None:
    layout = Layout(2, 32, 32)
    before, after = (plan("1.3b", layout, s) for s in (settings, settings._replace(**change)))
    assert after.peak < before.peak


def test_defaults_are_those_of_the_options() -> None:
    defaults = MemorySettings()._asdict()
    for options in (OPTConfig(), ChunkedCrossEntropyConfig(), OPTDummyLMConfig()):
        for name, value in vars(options).items():
            assert name == "batch_size" or defaults.get(name, value) == value, name


def test_offloaded_bytes_lie_in_cpu_memory() -> None:
    layout, settings = LAYOUTS["1.3b"], MemorySettings(cpu_offload=True)
    offloaded = plan("1.3b", layout, settings)
    assert offloaded.host == rank_bytes(SIZES["1.3b"], layout, rank=0).total
    assert all(moment[1:4] == (0, 0, 0) for moment in offloaded.moments)
    inputs = MemorySettings(
        batch_size=4, precision="bf16", checkpoint_activations=True, offload_activations=True
    )
    assert plan("1.3b", layout, inputs).host == 24 * 4 * 2048 * 2048 * 2  # L·N·D, in 2 bytes


def test_gradients_of_earlier_micro_batches_are_there_in_forward() -> None:
    layout, settings = LAYOUTS["1.3b"], MemorySettings(batch_size=4)
    once, twice = (plan("1.3b", layout, settings._replace(update_freq=n)) for n in (1, 2))
    gradients = rank_bytes(SIZES["1.3b"], layout, rank=0).gradients
    assert [m.gradients for m in once.moments[:3]] == [0, 0, 0]
    assert [m.gradients for m in twice.moments] == [gradients] * len(twice.moments)


def test_the_page_says_what_the_formula_gives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    recorded = plan("175b", LAYOUTS["175b"], RECORD)
    kept = plan("175b", LAYOUTS["175b"], RECORD._replace(checkpoint_activations=False))
    assert f"{recorded.peak:,}" in page
    assert f"{kept.peak:,}" in page
    for part, number in recorded.at_peak._asdict().items():
        if part not in ("name", "workspace"):
            assert f"| {part.replace('_', ' ')} | {number / 1e9:.3f} |" in page, part
