"""The doors through which fairseq reaches FSDP and tensor parallelism lead to ``metaseq_plugin.distributed``.

fairseq builds a sharded model inside FairScale's ``enable_wrap`` and asks for FairScale's class again
later. For an OPT the same calls lead to PyTorch's FSDP2; every other model still gets FairScale's.
"""

from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, Callable, Iterator, List, Optional


def is_opt(cfg: Any) -> bool:
    """Whether the run's ``--arch`` is ours."""
    name = str(cfg.model._name) if cfg.model is not None else ""
    return name == "opt" or name.startswith("opt_")


def check_layout(cfg: Any) -> None:
    """Refuse a layout that cannot be."""
    from metaseq_plugin.distributed import option_checks as layout_check

    layout_check.check_layout(cfg, cfg.distributed_training.distributed_world_size)


def checking(distributed_init: Callable[[Any], int]) -> Callable[[Any], int]:
    """``distributed_init``, which makes groups of ranks for layouts that can be, and for no others."""

    @wraps(distributed_init)
    def wrapper(cfg: Any) -> int:
        if is_opt(cfg):
            check_layout(cfg)
        return distributed_init(cfg)

    return wrapper


def preparing(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, after the layout of the run has been prepared."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        if is_opt(cfg):
            from metaseq_plugin.distributed import run as engine

            check_layout(cfg)
            engine.prepare(cfg)
        return main(cfg)

    return wrapper


def apply_to_fsdp(target: Any) -> None:
    """Lead ``fsdp_wrap`` to ours for an OPT."""
    enable_wrap, wrap = target.fsdp_enable_wrap, target.fsdp_wrap
    inside: List[Any] = []  # fairseq's distributed_training of the wrapping that is going on

    @contextmanager
    def fsdp_enable_wrap(cfg: Any) -> Iterator[None]:
        inside.append(cfg)
        try:
            with enable_wrap(cfg):
                yield
        finally:
            inside.pop()

    @wraps(wrap)
    def fsdp_wrap(module: Any, *args: Any, **kwargs: Any) -> Any:
        from metaseq_plugin.distributed import run as engine

        if inside and engine.shards_here():
            return engine.wrap(module, inside[-1])
        return wrap(module, *args, **kwargs)

    target.fsdp_enable_wrap, target.fsdp_wrap = fsdp_enable_wrap, fsdp_wrap


def leaving_sharded_alone(
    wrap: Callable[..., Any], with_timeout: Callable[..., Any]
) -> Callable[..., Any]:
    """``DistributedFairseqModel``, which adds no more than the heartbeat to a model that is sharded."""

    @wraps(wrap)
    def wrapper(args: Any, model: Any, *more: Any, **named: Any) -> Any:
        from metaseq_plugin.distributed import run as engine

        if engine.is_sharded(model):
            timeout = args.heartbeat_timeout
            return with_timeout(model, timeout=timeout) if timeout > 0 else model
        return wrap(args, model, *more, **named)

    return wrapper


def marking_copies(build: Callable[..., Any]) -> Callable[..., Any]:
    """``build_fp32_params``, whose copies are the same pieces of the model as the parameters."""

    @wraps(build)
    def wrapper(cls: Any, cfg: Any, params: Any, flatten: bool = True) -> Any:
        copies = build(cls, cfg, params, flatten)
        if not flatten:
            for parameter, copy in zip(params, copies, strict=True):
                vars(copy).update(vars(parameter))
        return copies

    return wrapper


def apply(target: Optional[ModuleType]) -> str:
    assert target is not None
    seams: Any = target
    if target.__name__ == "fairseq_cli.train":
        seams.main = preparing(seams.main)
    elif target.__name__ == "fairseq.distributed.utils":
        seams.distributed_init = checking(seams.distributed_init)
    elif target.__name__ == "fairseq.distributed.fully_sharded_data_parallel":
        apply_to_fsdp(seams)
    elif target.__name__ == "fairseq.optim.fp16_optimizer":
        mixin = seams._FP16OptimizerMixin
        mixin.build_fp32_params = classmethod(marking_copies(mixin.build_fp32_params.__func__))
    else:
        seams.DistributedFairseqModel = leaving_sharded_alone(
            seams.DistributedFairseqModel, seams.DistributedTimeoutWrapper
        )
    return "applied"
