"""Suggestions: all fit, the fastest come first, and the reasons are what they say."""

import pytest

from metaseq_plugin.launch.plan.communication import exchange
from metaseq_plugin.launch.plan.options import combinations
from metaseq_plugin.launch.plan.report import suggestions
from metaseq_plugin.launch.plan.suggest import Suggestions, suggest
from tests.launch.plan.plans import OPT_175B, parsed, plan


def suggested(line: str) -> Suggestions:
    result = plan(line)
    return suggest(result.planned, result.time.rate)


def test_they_fit_divide_and_are_in_order() -> None:
    found = suggested(OPT_175B)
    assert 0 < len(found.fitting) < found.tried
    for each in found.fitting:
        planned = each.planned
        assert planned.memory().peak == each.peak <= 80e9
        taken = planned.settings.num_tokens * planned.batch.update_freq * planned.data_parallel_size
        assert taken == planned.batch.batch_tokens == 2_031_616
        assert planned.size.heads % planned.model_parallel_size == 0
        assert each.exposed_seconds <= exchange(planned).seconds
    seconds = [each.update_seconds for each in found.fitting]
    assert seconds == sorted(seconds)


def test_opts_own_layout_is_one_of_them() -> None:
    layouts = {
        (each.planned.model_parallel_size, each.planned.settings.checkpoint_activations)
        for each in suggested(OPT_175B).fitting
    }
    assert (8, True) in layouts


@pytest.mark.parametrize(
    "asked",
    [
        "--memory-efficient-fp16 --zero 0",
        "--criterion cross_entropy",
        "--checkpoint-activations --recompute selective --checkpoint-layers 3",
        "--checkpoint-activations --offload-activations",
        "--cpu-offload",
    ],
)
def test_none_is_what_a_plan_refuses(asked: str) -> None:
    args = parsed(f"--arch opt_125m --gpus 8 --gpu h200 {asked}")
    result = plan(f"--arch opt_125m --gpus 8 --gpu h200 {asked}")
    found = suggest(result.planned, result.time.rate).fitting
    assert found
    for each in found:
        settings = each.planned.settings
        args.zero = 0 if not settings.fully_sharded else 3 if settings.reshard_after_forward else 2
        args.model_parallel_size = each.planned.model_parallel_size
        args.checkpoint_activations = settings.checkpoint_activations
        args.checkpoint_layers = settings.checkpoint_layers
        args.recompute = settings.recompute
        args.sequence_parallel = settings.sequence_parallel
        assert list(combinations(args)) == []


def test_of_equals_the_one_that_sends_less_is_first() -> None:
    best = suggested("--arch opt_125m --gpus 8 --gpu a100-80gb").fitting[0]
    assert best.planned.model_parallel_size == 1
    assert not best.planned.settings.fully_sharded
    assert not best.planned.settings.checkpoint_activations


def test_where_nothing_fits() -> None:
    found = suggested("--arch opt_175b --gpus 8 --gpu a100-80gb --batch-tokens 2M")
    assert not found.fitting
    assert found.smallest_peak > 80e9
    text = "\n".join(suggestions(found, 80e9))
    assert f"None of {found.tried} layouts fits 80 GB" in text


@pytest.mark.parametrize("line", [OPT_175B, "--arch opt_8m --gpus 1 --gpu h200"])
def test_what_is_printed_has_at_most_80_columns(line: str) -> None:
    assert max(map(len, suggestions(suggested(line), 80e9))) <= 80
