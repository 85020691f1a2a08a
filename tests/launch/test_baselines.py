"""Every row of the baselines: its values are the published ones, and fairseq's real parser reads them back."""

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.baselines import BASELINES, baseline
from metaseq_plugin.launch.recipe import recipe
from metaseq_plugin.launch.spec import Resources, Survival
from metaseq_plugin.sizes import SIZES
from tests.fairseq_runs import write_data

# metaseq, opt_job_constants.py and opt_baselines.py: batch tokens, LR, end LR, warmup and total updates, MP.
# fmt: off
PUBLISHED = {
    "opt_8m_mp1": (131_072,   1e-3,   1e-4,   2861, 2_288_818, 1),
    "opt_8m":     (131_072,   1e-3,   1e-4,   2861, 2_288_818, 2),
    "opt_125m":   (524_288,   6e-4,   6e-5,    715,   572_204, 2),
    "opt_350m":   (524_288,   3e-4,   3e-5,    715,   572_204, 2),
    "opt_760m":   (524_288,   2.5e-4, 2.5e-5,  715,   572_204, 2),
    "opt_1.3b":   (1_048_576, 2e-4,   2e-5,    357,   286_102, 2),
    "opt_2.7b":   (1_048_576, 1.6e-4, 1.6e-5,  357,   286_102, 4),
    "opt_6.7b":   (2_097_152, 1.2e-4, 1.2e-5,  178,   143_051, 2),
    "opt_13b":    (4_194_304, 1e-4,   1e-5,     89,    71_525, 2),
    "opt_30b":    (4_194_304, 1e-4,   1e-5,     89,    71_525, 2),
    "opt_66b":    (2_097_152, 8e-5,   8e-6,    178,   143_051, 8),
    "opt_175b":   (2_097_152, 3e-5,   3e-6,    178,   143_051, 8),
    # metaseq issue 223
    "opt_175b_as_trained": (2_031_616, 3e-5, 6e-6, 2000, 143_052, 8),
}
# fmt: on
RANKS = {name: 992 if name == "opt_175b_as_trained" else 64 for name in PUBLISHED}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_data(tmp_path_factory.mktemp("data")))


@lru_cache(maxsize=None)  # two tests ask
def parsed(name: str, data: str) -> Any:
    """The configuration that fairseq makes of a baseline's command."""
    resources = Resources(nodes=RANKS[name] // 8, ranks_per_node=8)
    launch = recipe(baseline(name), data, Path("runs/a"), {}, resources, Survival())
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, launch.spec.words())
    return convert_namespace_to_omegaconf(args)


@pytest.mark.parametrize("name", PUBLISHED)
def test_fairseq_reads_the_published_values(name: str, data: str) -> None:
    batch_tokens, lr, end_lr, warmup, total, parts = PUBLISHED[name]
    cfg = parsed(name, data)
    shards = RANKS[name] // parts
    assert cfg.dataset.batch_size * cfg.optimization.update_freq[0] * shards * 2048 == batch_tokens
    assert cfg.optimization.lr == [lr]
    assert cfg.lr_scheduler._name == "polynomial_decay"
    assert cfg.lr_scheduler.end_learning_rate == end_lr
    assert cfg.lr_scheduler.warmup_updates == warmup
    assert cfg.lr_scheduler.total_num_update == total
    assert cfg.optimization.max_update == total
    assert cfg.common.model_parallel_size == parts

    size = SIZES[baseline(name).size]
    assert (cfg.model.decoder_layers, cfg.model.decoder_embed_dim) == (size.layers, size.embed_dim)
    assert cfg.model.decoder_attention_heads == size.heads
    assert cfg.model.decoder_ffn_embed_dim == 4 * size.embed_dim


@pytest.mark.parametrize("name", PUBLISHED)
def test_fairseq_reads_what_all_have_in_common(name: str, data: str) -> None:
    cfg, as_trained = parsed(name, data), name == "opt_175b_as_trained"
    assert (cfg.task._name, cfg.task.tokens_per_sample) == ("opt_language_modeling", 2048)
    assert cfg.task.sample_break_mode == "none"
    assert cfg.criterion._name == "chunked_cross_entropy"
    assert cfg.optimizer._name == "adamw"
    betas = cfg.optimizer.adam_betas
    assert tuple(ast.literal_eval(betas) if isinstance(betas, str) else betas) == (0.9, 0.95)
    assert (cfg.optimizer.adam_eps, cfg.optimizer.weight_decay) == (1e-8, 0.1)
    assert cfg.optimization.clip_norm == (0.3 if as_trained else 1.0)
    assert (cfg.model.dropout, cfg.model.attention_dropout) == (0.1, 0.1)
    assert cfg.model.init_std == 0.006
    assert cfg.model.checkpoint_activations
    assert cfg.common.fp16
    assert not cfg.common.bf16
    assert (cfg.common.fp16_init_scale, cfg.common.fp16_scale_window) == (4, 256)
    assert cfg.common.threshold_loss_scale == (0.25 if as_trained else None)
    assert cfg.common.seed == 1
    assert (cfg.common.log_format, cfg.common.log_interval) == ("json", 1)
    assert cfg.distributed_training.ddp_backend == "fully_sharded"
    assert cfg.distributed_training.use_sharded_state
    assert cfg.distributed_training.no_reshard_after_forward is (not as_trained)
    assert cfg.checkpoint.save_interval_updates == (250 if as_trained else 2000)
    assert cfg.dataset.validate_interval_updates == (1000 if as_trained else 2000)
    assert (cfg.dataset.num_workers, cfg.dataset.required_batch_size_multiple) == (8, 1)


def test_the_page_shows_the_published_values() -> None:
    page = (Path(__file__).parents[2] / "docs/launch.md").read_text("utf-8")
    for name, (batch, lr, end_lr, warmup, total, parts) in PUBLISHED.items():
        assert (
            f"| `{name}` | {batch:,} | {lr:g}, {end_lr:g} | {warmup:,}, {total:,} | {parts} |\n"
            in page
        )


def test_there_is_a_row_for_each_published_one() -> None:
    assert set(BASELINES) == set(PUBLISHED)


def test_updates_follow_from_tokens_where_the_batch_is_another() -> None:
    options = baseline("opt_125m").options(16, {"batch-tokens": "1M"})
    assert (options["batch-size"], options["update-freq"]) == (8, 8)
    assert options["warmup-updates"] == 375_000_000 // 1_048_576
    assert options["total-num-update"] == options["max-update"] == 300_000_000_000 // 1_048_576
    # The real run's are those of its own tokens.
    options = baseline("opt_175b_as_trained").options(992, {"update-freq": 2, "batch-size": 8})
    assert (options["warmup-updates"], options["max-update"]) == (1000, 71_526)


def test_a_batch_is_the_one_of_its_two_factors() -> None:
    options = baseline("opt_8m").options(
        2, {"batch-size": "4", "update-freq": 3, "tokens-per-sample": 64}
    )
    assert (options["batch-size"], options["update-freq"]) == ("4", 3)
    assert options["max-update"] == 300_000_000_000 // (4 * 3 * 64)


def test_the_end_of_the_rate_follows_the_rate() -> None:
    assert baseline("opt_125m").options(16, {"lr": "3e-4"})["end-learning-rate"] == 3e-5
    assert baseline("opt_175b_as_trained").options(992, {"lr": 1e-4})["end-learning-rate"] == 2e-5
    assert (
        baseline("opt_125m").options(16, {"lr": 1, "end-learning-rate": 0})["end-learning-rate"]
        == 0
    )


def test_what_goes_with_an_option_goes_with_it() -> None:
    row = baseline("opt_175b_as_trained")
    halves = {"fp16", "fp16-init-scale", "fp16-scale-window", "threshold-loss-scale"}
    assert halves <= set(row.options(992))
    assert not halves & set(row.options(992, {"bf16": True}))
    assert not halves & set(row.options(992, {"cpu": True}))
    assert halves <= set(row.options(992, {"bf16": None, "cpu": False}))
    for backend in ("pytorch_ddp", None):
        assert "use-sharded-state" not in row.options(992, {"ddp-backend": backend})
    assert "checkpoint-activations" not in row.options(992, {"checkpoint-activations": None})


# fmt: off
REFUSED: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "batch": ("opt_175b", 992, {}, "`--batch-tokens` must be a multiple of 253,952 (124 data-parallel ranks x 2,048 tokens), but is 2,097,152. Set --batch-tokens 2031616 or 2285568, or 512 or 1,024 ranks."),
    "batch too small": ("opt_8m", 1024, {}, "`--batch-tokens` must be a multiple of 1,048,576 (512 data-parallel ranks x 2,048 tokens), but is 131,072. Set --batch-tokens 1048576, or 128 ranks."),
    "batch size": ("opt_125m", 16, {"batch-size": 5}, "`--batch-tokens` must be a multiple of 81,920 (8 data-parallel ranks x 2,048 tokens x --batch-size 5), but is 524,288. Set --batch-tokens 491520 or 573440."),
    "update freq": ("opt_125m", 16, {"update-freq": 64}, "`--batch-tokens` must be a multiple of 1,048,576 (8 data-parallel ranks x 2,048 tokens x --update-freq 64), but is 524,288. Set --batch-tokens 1048576, or 8 ranks."),
    "three of a kind": ("opt_125m", 16, {"batch-tokens": "1M", "batch-size": 1, "update-freq": 1}, "`--batch-tokens` must be that of --batch-size and --update-freq (16,384), but is 1,048,576. Leave one of them out."),
    "no batch": ("opt_125m", 16, {"batch-size": 0}, "`--batch-size` must be at least 1, but is 0. Set more."),
    "batch no number": ("opt_125m", 16, {"batch-size": "8x"}, "`--batch-size` must be a whole number, but is 8x. Set one."),
    "tokens no number": ("opt_125m", 16, {"batch-tokens": "2X"}, "`--batch-tokens` must be a number of tokens, but is 2X. Set for example 524288 or 0.5M."),
    "half a token": ("opt_125m", 16, {"batch-tokens": "0.5"}, "`--batch-tokens` must be a number of tokens, but is 0.5. Set for example 524288 or 0.5M."),
    "parts of ranks": ("opt_125m", 3, {}, "`--model-parallel-size` must divide the number of ranks (3), but is 2. Set one of 1, 3."),
    "parts of heads": ("opt_125m", 8, {"model-parallel-size": 8}, "`--model-parallel-size` must divide the attention heads (12), but is 8. Set one of 1, 2, 4."),
    "no parts": ("opt_125m", 8, {"model-parallel-size": 0}, "`--model-parallel-size` must be at least 1, but is 0. Set 1 to not cut."),
    "no ranks": ("opt_125m", 0, {}, "The number of ranks must be at least 1, but is 0. Set --nodes."),
    "no part of the layout": ("opt_125m", 16, {"model-parallel-size": None}, "`--model-parallel-size` must have a value in a recipe, but is left out. Set one, or leave it to the recipe."),
    "no part of the batch": ("opt_125m", 16, {"batch-size": False}, "`--batch-size` must have a value in a recipe, but is left out. Set one, or leave it to the recipe."),
    "rate": ("opt_125m", 16, {"lr": "fast"}, "`--lr` must be a number, but is fast. Set for example 0.0006."),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    name, num_ranks, overrides, sentence = REFUSED[case]
    with pytest.raises(UserError) as error:
        baseline(name).options(num_ranks, overrides)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("125m", "Did you mean opt_125m?"),
        ("opt_175b_as_traind", "Did you mean opt_175b_as_trained?"),
        ("llama", "Set one of them."),
    ],
)
def test_an_unknown_name_is_refused(name: str, advice: str) -> None:
    with pytest.raises(
        UserError, match=f"A baseline must be one of opt_8m_mp1, .* but is {name}. "
    ) as error:
        baseline(name)
    assert str(error.value).endswith(advice)
