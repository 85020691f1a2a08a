"""Layouts that cannot be are refused with every problem named, and those that can be are not."""

from typing import Any, Callable

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import open_dict

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.distributed.check import check_layout, check_vocabulary

OURS = ("--task", "opt_language_modeling", "--criterion", "chunked_cross_entropy")
SHARDED = ("--ddp-backend", "fully_sharded")
PARTS = ("--model-parallel-size", "2")


def config(*arguments: str, arch: str = "opt_125m", **model: Any) -> Any:
    """fairseq's configuration of a training command line; ``model`` sets what it cannot yet."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", *OURS, "--arch", arch, *arguments])
    cfg = convert_namespace_to_omegaconf(args)
    with open_dict(cfg):
        cfg.model.update(model)
    return cfg


def problems(cfg: Any, world_size: int) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_layout(cfg, world_size)
    return str(caught.value).splitlines()


GOOD: dict[str, tuple[Callable[[], Any], int]] = {
    "one process": (config, 1),
    "data parallel": (config, 3),
    "legacy data parallel": (lambda: config("--ddp-backend", "legacy_ddp"), 2),
    "sharded": (lambda: config(*SHARDED, "--use-sharded-state", "--cpu-offload"), 4),
    "sharded once": (lambda: config(*SHARDED, "--no-reshard-after-forward", "--fp16"), 4),
    "parts": (lambda: config(*PARTS, "--bf16", sequence_parallel=True), 4),
    "parts, sharded": (lambda: config(*PARTS, *SHARDED, "--use-sharded-state"), 4),
    "the 175B": (lambda: config("--model-parallel-size", "8", *SHARDED, arch="opt_175b"), 992),
    "memory-efficient alone": (lambda: config("--memory-efficient-fp16"), 1),
    "other model": (lambda: config(arch="transformer_lm_gpt2_tiny"), 2),
}


@pytest.mark.parametrize("name", GOOD)
def test_layouts_that_can_be(name: str) -> None:
    make, world_size = GOOD[name]
    check_layout(make(), world_size)


# fmt: off
BAD: dict[str, tuple[Callable[[], Any], int, str]] = {
    "no parts": (lambda: config("--model-parallel-size", "0"), 4, "`--model-parallel-size` must be at least 1, but is 0. Set one of 1, 2, 4."),
    "ranks": (lambda: config(*PARTS), 3, "`--model-parallel-size` must divide the number of ranks (3), but is 2. Set one of 1, 3."),
    "heads": (lambda: config("--model-parallel-size", "8"), 8, "`--model-parallel-size` must divide `--decoder-attention-heads` (12), but is 8. Set one of 1, 2, 4."),
    "given heads": (lambda: config("--model-parallel-size", "4", "--decoder-attention-heads", "6"), 8, "must divide `--decoder-attention-heads` (6), but is 4. Set one of 1, 2."),
    "ffn": (lambda: config("--model-parallel-size", "4", "--decoder-ffn-embed-dim", "30"), 4, "must divide `--decoder-ffn-embed-dim` (30), but is 4. Set one of 1, 2."),
    "arch": (lambda: config(*PARTS, arch="transformer_lm_gpt2_tiny"), 2, "`--arch` must be an OPT's with --model-parallel-size, but is transformer_lm"),
    "task": (lambda: config(*PARTS, "--task", "language_modeling"), 2, "`--task` must be the plugin's with --model-parallel-size, but is language_modeling."),
    "criterion": (lambda: config(*PARTS, "--criterion", "cross_entropy"), 2, "`--criterion` must be chunked_cross_entropy with --model-parallel-size, but is cross_entropy."),
    "compile": (lambda: config(*PARTS, "--compile"), 2, "`--compile` must be left out with --model-parallel-size, but is set."),
    "legacy_ddp": (lambda: config(*PARTS, "--ddp-backend", "no_c10d"), 2, "`--ddp-backend` must be pytorch_ddp or fully_sharded with --model-parallel-size, but is no_c10d."),
    "slowmo": (lambda: config(*PARTS, "--ddp-backend", "slowmo"), 2, "but is slowmo."),
    "sequences": (lambda: config(sequence_parallel=True), 2, "`--sequence-parallel` must come with --model-parallel-size of 2 or more, but that is 1."),
    "sharded state": (lambda: config("--use-sharded-state"), 2, "`--use-sharded-state` must come with --ddp-backend fully_sharded, but that is pytorch_ddp."),
    "no reshard": (lambda: config("--no-reshard-after-forward"), 2, "`--no-reshard-after-forward` must come with"),
    "offload": (lambda: config("--cpu-offload"), 2, "`--cpu-offload` must come with"),
    "memory-efficient fp16": (lambda: config(*SHARDED, "--memory-efficient-fp16"), 2, "`--memory-efficient-fp16` must be left out with --ddp-backend fully_sharded, but is set. Set --fp16."),
    "memory-efficient bf16": (lambda: config(*PARTS, "--memory-efficient-bf16"), 2, "`--memory-efficient-bf16` must be left out with --model-parallel-size, but is set. Set --bf16."),
    "amp": (lambda: config(*SHARDED, "--amp"), 2, "`--amp` must be left out"),
    "two 16-bit types": (lambda: config(*SHARDED, "--fp16", "--bf16"), 2, "`--fp16` must be left out with --ddp-backend fully_sharded, but is set. Set it or --bf16, not both."),
    "ZeRO": (lambda: config(*PARTS, "--zero-sharding", "os"), 2, "`--zero-sharding` must be left out with --model-parallel-size, but is set. Set --ddp-backend fully_sharded"),
    "bmuf": (lambda: config(*SHARDED, "--use-bmuf"), 2, "`--use-bmuf` must be left out"),
    "ema": (lambda: config(*PARTS, "--store-ema"), 2, "`--store-ema` must be left out"),
    "pipeline": (lambda: config(*PARTS, "--pipeline-model-parallel"), 2, "`--pipeline-model-parallel` must be left out"),
    "tpu": (lambda: config(*SHARDED, "--tpu"), 2, "`--tpu` must be left out"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD)
def test_layouts_that_cannot_be(name: str) -> None:
    make, world_size, sentence = BAD[name]
    (problem,) = problems(make(), world_size)
    assert sentence in problem
    assert problem.endswith(".")


def test_all_problems_are_named_at_once() -> None:
    cfg = config("--model-parallel-size", "5", "--compile", "--amp", "--use-sharded-state")
    found = problems(cfg, 4)
    assert len(found) == 6
    assert "(4), but is 5. Set one of 1, 2, 4." in "\n".join(found)


def test_the_configuration_is_left_as_it_is() -> None:
    cfg = config(*PARTS)
    cfg.model.decoder_attention_heads = None
    check_layout(cfg, 2)
    assert cfg.model.decoder_attention_heads is None


def test_vocabulary() -> None:
    check_vocabulary(50_272, 8)
    with pytest.raises(
        UserError, match=r"dict.txt \(50272\), but is 6. Set one of 1, 2, 4, 8, 16, 32\."
    ):
        check_vocabulary(50_272, 6)
