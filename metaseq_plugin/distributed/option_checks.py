"""What a layout of ranks cannot be, refused at the door: every problem of the settings in one message.

(1) ``check_layout``: which options go together, and what --model-parallel-size must divide;
(2) ``check_vocabulary``: the same for the dictionary, once it is known.
"""

import copy
from typing import Any, Callable, Iterator, NamedTuple

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import FULLY_SHARDED, check_divides, divisors, indivisible
from metaseq_plugin.sizes import fill_size, is_opt


class Option(NamedTuple):
    """An option as typed, whether a run sets it, and what to set instead."""

    name: str
    is_set: Callable[[Any], bool]
    instead: str


def is_sharded(cfg: Any) -> bool:
    """Whether the parameters are cut over the data-parallel ranks."""
    return str(cfg.distributed_training.ddp_backend) == FULLY_SHARDED


def flag(cfg: Any, name: str) -> bool:
    """A boolean of the model's, which models of fairseq's need not have."""
    return name in cfg.model and bool(cfg.model[name])


# What neither sharding nor tensor parallelism works with.
NEVER = (
    Option("--memory-efficient-fp16", lambda c: c.common.memory_efficient_fp16, "Set --fp16."),
    Option("--memory-efficient-bf16", lambda c: c.common.memory_efficient_bf16, "Set --bf16."),
    Option("--amp", lambda c: c.common.amp, "Set --bf16 or --fp16."),
    Option("--fp16", lambda c: c.common.fp16 and c.common.bf16, "Set it or --bf16, not both."),
    Option("--tpu", lambda c: c.common.tpu, "Leave it out."),
    Option("--use-bmuf", lambda c: c.optimization.use_bmuf, "Leave it out."),
    Option("--store-ema", lambda c: c.ema.store_ema, "Leave it out."),
    Option(
        "--pipeline-model-parallel",
        lambda c: c.distributed_training.pipeline_model_parallel,
        "Set --model-parallel-size.",
    ),
    Option(
        "--zero-sharding",
        lambda c: str(c.distributed_training.zero_sharding) != "none",
        "Set --ddp-backend fully_sharded, which does more.",
    ),
)

# What only sharding knows.
SHARDED_ONLY = ("use_sharded_state", "no_reshard_after_forward", "cpu_offload")

# The backends that train the parts of a model; slowmo and legacy_ddp all-reduce past the parts.
PART_BACKENDS = ("pytorch_ddp", "c10d", FULLY_SHARDED)


def combinations(cfg: Any) -> Iterator[str]:
    """Options that do not go together, whatever the sizes are."""
    parts = cfg.common.model_parallel_size > 1
    sharded = is_sharded(cfg)
    if parts or sharded:
        layout = "--ddp-backend fully_sharded" if sharded else "--model-parallel-size"
        for option in NEVER:
            if option.is_set(cfg):
                yield f"`{option.name}` must be left out with {layout}, but is set. {option.instead}"
        optimizer = cfg.optimizer._name if cfg.optimizer is not None else "missing"
        if optimizer != "adamw":
            yield (
                f"`--optimizer` must be adamw with {layout}, but is {optimizer}. Only that "
                "one knows which part of the model's gradient a rank holds; set it."
            )
    for name in SHARDED_ONLY:
        if not sharded and cfg.distributed_training[name]:
            typed = "--" + name.replace("_", "-")
            yield (
                f"`{typed}` must come with --ddp-backend fully_sharded, but that is "
                f"{cfg.distributed_training.ddp_backend}. Set it, or leave {typed} out."
            )
    if flag(cfg, "sequence_parallel") and not parts:
        yield (
            "`--sequence-parallel` must come with --model-parallel-size of 2 or more, but that is "
            f"{cfg.common.model_parallel_size}. Set it, or leave --sequence-parallel out."
        )


def components(cfg: Any) -> Iterator[str]:
    """What cannot be cut into model parts."""
    with_parts = "with --model-parallel-size"
    if not is_opt(cfg.model._name):
        yield f"`--arch` must be an OPT's {with_parts}, but is {cfg.model._name}. Set for example opt_125m."
    if not is_opt(cfg.task._name):
        yield (
            f"`--task` must be the plugin's {with_parts}, but is {cfg.task._name}. "
            "Set opt_language_modeling."
        )
    if cfg.criterion._name != "chunked_cross_entropy":
        yield (
            f"`--criterion` must be chunked_cross_entropy {with_parts}, but is "
            f"{cfg.criterion._name}. Set that."
        )
    if flag(cfg, "compile"):
        yield f"`--compile` must be left out {with_parts}, but is set. Leave it out."
    backend = str(cfg.distributed_training.ddp_backend)
    if backend not in PART_BACKENDS:
        yield (
            f"`--ddp-backend` must be pytorch_ddp or fully_sharded {with_parts}, but is {backend}. "
            "Set one of them."
        )


def sizes(cfg: Any, world_size: int) -> Iterator[str]:
    """What --model-parallel-size must divide, with the sizes that divide all of it."""
    parts = cfg.common.model_parallel_size
    cut = {"the number of ranks": world_size}
    if is_opt(cfg.model._name):
        model = copy.deepcopy(cfg.model)
        fill_size(model, str(model._name))
        cut["`--decoder-attention-heads`"] = model.decoder_attention_heads
        cut["`--decoder-ffn-embed-dim`"] = model.decoder_ffn_embed_dim
    cut = {name: number for name, number in cut.items() if number > 0}  # the model refuses others
    yield from indivisible(parts, cut)


def check_layout(cfg: Any, world_size: int) -> None:
    """Refuse settings that no layout of ``world_size`` ranks can have."""
    parts = cfg.common.model_parallel_size
    problems = list(combinations(cfg))
    if parts < 1:
        problems.append(
            f"`--model-parallel-size` must be at least 1, but is {parts}. "
            f"Set one of {', '.join(map(str, divisors(world_size)))}."
        )
    elif parts > 1:
        problems += [*components(cfg), *sizes(cfg, world_size)]
    if problems:
        raise UserError(*problems)


def check_vocabulary(num_types: int, model_parallel_size: int) -> None:
    """Refuse a dictionary of ``num_types`` entries that the model parts cannot share evenly."""
    check_divides(model_parallel_size, {"the number of types in dict.txt": num_types})
