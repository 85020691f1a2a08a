"""The plan of memory against an update of the real code on fake tensors: up to 175B on 992 ranks, to a few per mille.

Counted are storages, which is what a caching allocator is asked for; see ``tests/fake_updates.py``.
"""

import pytest

from metaseq_plugin.launch.plan.memory import memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.launch.rank_bytes import LAYOUTS, rank_bytes
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.sizes import SIZES, OPTSize
from tests.fake_updates import peaks_of_update
from tests.meta_ranks import on_ranks

SMALL = OPTSize(layers=3, embed_dim=256, heads=4)
SMALL_350M = OPTSize(layers=3, embed_dim=256, heads=4, word_embed_dim=128, post_norm=True)
BF16 = MemorySettings(batch_size=4, tokens_per_sample=512, precision="bf16")
RECOMPUTING = MemorySettings(batch_size=8, precision="bf16", checkpoint_activations=True)
SELECTIVE = BF16._replace(checkpoint_activations=True, recompute="selective", vocab_size=512)

QUICK = [
    (SMALL, Layout(1, 4), BF16),
    (SMALL, Layout(1, 4), BF16._replace(checkpoint_activations=True, vocab_size=512)),
    (SMALL, Layout(2, 2), BF16._replace(precision="fp16")),
    (SMALL, Layout(2, 3), BF16._replace(precision="fp32", reshard_after_forward=False, vocab_size=512)),
    (SMALL, Layout(2, 2), BF16._replace(sequence_parallel=True, dropout=0.0, vocab_size=512)),
    (SMALL_350M, Layout(1, 1), BF16._replace(vocab_size=2048)),
    (SMALL, Layout(1, 4), SELECTIVE),
    (SMALL, Layout(1, 1), SELECTIVE._replace(precision="fp32", checkpoint_layers=2)),
    (SMALL, Layout(2, 2), SELECTIVE._replace(checkpoint_layers=1, dropout=0.0)),
    (SMALL, Layout(2, 2), SELECTIVE._replace(sequence_parallel=True)),
    (SMALL_350M, Layout(1, 2), SELECTIVE),
    (SMALL, Layout(1, 2), BF16._replace(checkpoint_activations=True, checkpoint_layers=1, vocab_size=512)),
]  # fmt: skip
LARGE = [
    ("125m", LAYOUTS["125m"], BF16),
    ("1.3b", LAYOUTS["1.3b"], RECOMPUTING._replace(checkpoint_activations=False)),
    ("6.7b", LAYOUTS["6.7b"], RECOMPUTING),
    ("6.7b", Layout(1, 1), RECOMPUTING._replace(batch_size=1, recompute="selective")),
    ("13b", LAYOUTS["13b"], RECOMPUTING._replace(checkpoint_layers=10)),
    ("175b", LAYOUTS["175b"], RECOMPUTING._replace(batch_size=2, recompute="selective")),
    ("175b", LAYOUTS["175b"], RECOMPUTING._replace(precision="fp16")),
]  # fmt: skip


def check(size: OPTSize, layout: Layout, settings: MemorySettings, tolerance: float) -> None:
    (seen,) = on_ranks([0], layout, peaks_of_update, size, settings)
    vocabulary = settings.vocab_size, settings.position_rows
    states = rank_bytes(size, layout, 0, *vocabulary)
    mesh = 4 * layout.num_ranks  # the number of every rank, which the device mesh keeps
    assert seen.pop("between") == states.parameters + states.optimizer + mesh
    plan = memory(size, layout, settings)
    print(f"{size} {layout} {settings}: planned {plan.peak:,}, {plan.at_peak.name}; seen {seen}")  # noqa: T201
    assert plan.peak == pytest.approx(max(seen.values()), rel=tolerance)


@pytest.mark.parametrize(("size", "layout", "settings"), QUICK)
def test_the_peak_of_a_small_model(size: OPTSize, layout: Layout, settings: MemorySettings) -> None:
    check(size, layout, settings, tolerance=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout", "settings"), LARGE)
def test_the_peak_of_a_real_size(name: str, layout: Layout, settings: MemorySettings) -> None:
    check(SIZES[name], layout, settings, tolerance=0.02)
