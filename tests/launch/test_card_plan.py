"""docs/scale.md on which sizes train on one card: each row of its tables is what the plan says."""

from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.launch.plan.memory import memory
from metaseq_plugin.launch.plan.memory_settings import MemorySettings
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.ledger.flops import model_flops
from metaseq_plugin.sizes import SIZES

ONE_CARD = MemorySettings(update_freq=2, precision="bf16")
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "`--cpu-offload`": {"cpu_offload": True},
    "`--checkpoint-activations`": {"checkpoint_activations": True},
    "`--checkpoint-activations --recompute selective`": {
        "checkpoint_activations": True,
        "recompute": "selective",
    },
    "`--cpu-offload --checkpoint-activations`": {
        "cpu_offload": True,
        "checkpoint_activations": True,
    },
}
# (size, GB of the card, options, the largest batch size of 1, 2, 4 … that fits)
ROWS = [
    ("125m", 80, "nothing", 64),
    ("350m", 80, "nothing", 32),
    ("1.3b", 80, "nothing", 16),
    ("1.3b", 141, "nothing", 32),
    ("2.7b", 80, "`--checkpoint-activations --recompute selective`", 8),
    ("2.7b", 141, "nothing", 16),
    ("6.7b", 80, "`--cpu-offload`", 8),
    ("6.7b", 141, "`--checkpoint-activations --recompute selective`", 4),
    ("6.7b", 141, "`--checkpoint-activations`", 16),
    ("13b", 80, "`--cpu-offload`", 4),
    ("13b", 80, "`--cpu-offload --checkpoint-activations`", 32),
    ("13b", 141, "`--cpu-offload`", 8),
]
SELECTIVE, WHOLE = (
    "`--checkpoint-activations --recompute selective`",
    "`--checkpoint-activations`",
)
KEPT: dict[str, dict[str, Any]] = {
    "nothing": {},
    SELECTIVE: OPTIONS[SELECTIVE],
    "`--checkpoint-activations --checkpoint-layers 16`": {
        **OPTIONS[WHOLE],
        "checkpoint_layers": 16,
    },
    WHOLE: OPTIONS[WHOLE],
}
PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")


def card_row(name: str, card: int, options: str, batch_size: int) -> str:
    settings = ONE_CARD._replace(batch_size=batch_size, **OPTIONS[options])
    plan = memory(SIZES[name], Layout(1, 1), settings)
    assert plan.peak <= card * 1e9
    host = f"{plan.host / 1e9:.0f}" if plan.host else ""
    return f"| {name} | {card} | {options} | {batch_size} | {plan.peak / 1e9:.1f} | {host} |"


def kept_row(options: str) -> str:
    settings = ONE_CARD._replace(batch_size=4, **KEPT[options])
    size = SIZES["6.7b"]
    loss = next(m for m in memory(size, Layout(1, 1), settings).moments if m.name == "loss")
    again = settings.layers_run_again(size.layers) / size.layers
    flops = model_flops(size)
    share = flops.hardware(again) / flops.training
    return f"| {options} | {loss.activations / 1e9:.1f} | {share:.2f} |"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_page_says_what_fits_a_card(row: tuple[str, int, str, int]) -> None:
    assert card_row(*row) in PAGE


@pytest.mark.parametrize("options", KEPT)
def test_the_page_says_what_layers_keep(options: str) -> None:
    assert kept_row(options) in PAGE


def test_no_sharded_parameters_of_the_larger_sizes_fit_their_card() -> None:
    for name, gigabytes in (("6.7b", 107), ("13b", 206)):
        offloaded = ONE_CARD._replace(cpu_offload=True)
        states = memory(SIZES[name], Layout(1, 1), offloaded).host
        assert round(states / 1e9) == gigabytes
    frugal = MemorySettings(precision="memory_efficient_bf16", fully_sharded=False)
    assert f"{memory(SIZES['6.7b'], Layout(1, 1), frugal).peak / 1e9:.1f} GB" in PAGE
