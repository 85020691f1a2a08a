"""Layouts that cannot be are refused with every problem named, and those that can be are not."""

import copy
from typing import Any, Callable

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf, open_dict

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.distributed.option_checks import check_layout, check_vocabulary

Settings = dict[str, Any]  # dotted names of fairseq's configuration

SHARDED: Settings = {"distributed_training.ddp_backend": "fully_sharded"}
PARTS: Settings = {"common.model_parallel_size": 2}
# The dimensions of an arch that nobody gave on the command line.
OPT_175B: Settings = {
    "model._name": "opt_175b",
    "model.decoder_embed_dim": None,
    "model.decoder_attention_heads": None,
    "model.decoder_ffn_embed_dim": None,
}


@pytest.fixture(scope="module")
def command_line() -> Any:
    """fairseq's configuration of a training command line."""
    chosen = ["--task", "opt_language_modeling", "--criterion", "chunked_cross_entropy"]
    chosen += ["--optimizer", "adamw"]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", "--arch", "opt_125m", *chosen])
    return convert_namespace_to_omegaconf(args)


@pytest.fixture
def config(command_line: Any) -> Callable[[Settings], Any]:
    def change(settings: Settings) -> Any:
        cfg = copy.deepcopy(command_line)
        with open_dict(cfg):
            for key, value in settings.items():
                OmegaConf.update(cfg, key, value, merge=False)
        return cfg

    return change


def problems(cfg: Any, world_size: int) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_layout(cfg, world_size)
    return str(caught.value).splitlines()


# fmt: off
GOOD: dict[str, tuple[Settings, int]] = {
    "one process": ({}, 1),
    "data parallel": ({}, 3),
    "legacy data parallel": ({"distributed_training.ddp_backend": "legacy_ddp"}, 2),
    "sharded": (SHARDED | {"distributed_training.use_sharded_state": True, "distributed_training.cpu_offload": True}, 4),
    "sharded once": (SHARDED | {"distributed_training.no_reshard_after_forward": True, "common.fp16": True}, 4),
    "parts": (PARTS | {"common.bf16": True, "model.sequence_parallel": True}, 4),
    "parts, sharded": (PARTS | SHARDED | {"distributed_training.use_sharded_state": True}, 4),
    "the 175B": (OPT_175B | SHARDED | {"common.model_parallel_size": 8}, 992),
    "memory-efficient alone": ({"common.memory_efficient_fp16": True}, 1),
    "other model": ({"model._name": "transformer_lm", "task._name": "language_modeling"}, 2),
}

BAD: dict[str, tuple[Settings, int, str]] = {
    "no parts": ({"common.model_parallel_size": 0}, 4, "`--model-parallel-size` must be at least 1, but is 0. Set one of 1, 2, 4."),
    "ranks": (PARTS, 3, "`--model-parallel-size` must divide the number of ranks (3), but is 2. Set one of 1, 3."),
    "heads": ({"common.model_parallel_size": 8}, 8, "`--model-parallel-size` must divide `--decoder-attention-heads` (12), but is 8. Set one of 1, 2, 4."),
    "arch's heads": (OPT_175B | {"common.model_parallel_size": 64}, 64, "must divide `--decoder-attention-heads` (96), but is 64. Set one of 1, 2, 4, 8, 16, 32."),
    "ffn": ({"common.model_parallel_size": 4, "model.decoder_ffn_embed_dim": 30}, 4, "must divide `--decoder-ffn-embed-dim` (30), but is 4. Set one of 1, 2."),
    "arch": (PARTS | {"model._name": "transformer_lm"}, 2, "`--arch` must be an OPT's with --model-parallel-size, but is transformer_lm"),
    "task": (PARTS | {"task._name": "language_modeling"}, 2, "`--task` must be the plugin's with --model-parallel-size, but is language_modeling."),
    "criterion": (PARTS | {"criterion._name": "cross_entropy"}, 2, "`--criterion` must be chunked_cross_entropy with --model-parallel-size, but is cross_entropy."),
    "optimizer": (SHARDED | {"optimizer._name": "adam"}, 2, "`--optimizer` must be adamw with --ddp-backend fully_sharded, but is adam."),
    "no optimizer": (PARTS | {"optimizer": None}, 2, "`--optimizer` must be adamw with --model-parallel-size, but is missing."),
    "compile": (PARTS | {"model.compile": True}, 2, "`--compile` must be left out with --model-parallel-size, but is set."),
    "legacy_ddp": (PARTS | {"distributed_training.ddp_backend": "no_c10d"}, 2, "`--ddp-backend` must be pytorch_ddp or fully_sharded with --model-parallel-size, but is no_c10d."),
    "slowmo": (PARTS | {"distributed_training.ddp_backend": "slowmo"}, 2, "but is slowmo."),
    "sequences": ({"model.sequence_parallel": True}, 2, "`--sequence-parallel` must come with --model-parallel-size of 2 or more, but that is 1."),
    "sharded state": ({"distributed_training.use_sharded_state": True}, 2, "`--use-sharded-state` must come with --ddp-backend fully_sharded, but that is pytorch_ddp."),
    "no reshard": ({"distributed_training.no_reshard_after_forward": True}, 2, "`--no-reshard-after-forward` must come with"),
    "offload": ({"distributed_training.cpu_offload": True}, 2, "`--cpu-offload` must come with"),
    "memory-efficient fp16": (SHARDED | {"common.memory_efficient_fp16": True}, 2, "`--memory-efficient-fp16` must be left out with --ddp-backend fully_sharded, but is set. Set --fp16."),
    "memory-efficient bf16": (PARTS | {"common.memory_efficient_bf16": True}, 2, "`--memory-efficient-bf16` must be left out with --model-parallel-size, but is set. Set --bf16."),
    "amp": (SHARDED | {"common.amp": True}, 2, "`--amp` must be left out"),
    "two 16-bit types": (SHARDED | {"common.fp16": True, "common.bf16": True}, 2, "`--fp16` must be left out with --ddp-backend fully_sharded, but is set. Set it or --bf16, not both."),
    "ZeRO": (PARTS | {"distributed_training.zero_sharding": "os"}, 2, "`--zero-sharding` must be left out with --model-parallel-size, but is set. Set --ddp-backend fully_sharded"),
    "bmuf": (SHARDED | {"optimization.use_bmuf": True}, 2, "`--use-bmuf` must be left out"),
    "ema": (PARTS | {"ema.store_ema": True}, 2, "`--store-ema` must be left out"),
    "pipeline": (PARTS | {"distributed_training.pipeline_model_parallel": True}, 2, "`--pipeline-model-parallel` must be left out"),
    "tpu": (SHARDED | {"common.tpu": True}, 2, "`--tpu` must be left out"),
}
# fmt: on

Config = Callable[[Settings], Any]


@pytest.mark.parametrize("name", GOOD)
def test_layouts_that_can_be(config: Config, name: str) -> None:
    settings, world_size = GOOD[name]
    check_layout(config(settings), world_size)


@pytest.mark.parametrize("name", BAD)
def test_layouts_that_cannot_be(config: Config, name: str) -> None:
    settings, world_size, sentence = BAD[name]
    (problem,) = problems(config(settings), world_size)
    assert sentence in problem
    assert problem.endswith(".")


def test_all_problems_are_named_at_once(config: Config) -> None:
    settings = {"common.model_parallel_size": 5, "model.compile": True, "common.amp": True}
    found = problems(config(settings | {"distributed_training.use_sharded_state": True}), 4)
    assert len(found) == 6
    assert "(4), but is 5. Set one of 1, 2, 4." in "\n".join(found)


def test_the_configuration_is_left_as_it_is(config: Config) -> None:
    cfg = config(OPT_175B | PARTS)
    check_layout(cfg, 2)
    assert cfg.model.decoder_attention_heads is None


def test_vocabulary() -> None:
    check_vocabulary(50_272, 8)
    with pytest.raises(UserError, match=r"dict.txt \(50272\), but is 6. Set one of 1, 2, 4, 8"):
        check_vocabulary(50_272, 6)
