"""The doors through which fairseq reaches FSDP and tensor parallelism lead to the host for its models.

fairseq wraps a sharded model in FairScale's class and asks for that class again later. For a model of
the host's the same calls lead to PyTorch's FSDP2; every other model still gets FairScale's. Commands that
would load the whole model in one process, whatever the flags, refuse the flag.
"""

from functools import wraps
from typing import Any, Callable, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.host import Host, host_of, registered


def host_of_rank(cfg: Any) -> Optional[Host]:
    """``host_of``, also in a rank that fairseq spawned, where the user directory is not imported yet."""
    from fairseq import utils

    utils.import_user_module(cfg.common)
    return host_of(cfg)


def checking(distributed_init: Callable[[Any], int]) -> Callable[[Any], int]:
    """``distributed_init``, which makes groups of ranks for layouts that can be, and for no others."""

    @wraps(distributed_init)
    def wrapper(cfg: Any) -> int:
        host = host_of_rank(cfg)
        if host is not None:
            host.check(cfg)
        return distributed_init(cfg)

    return wrapper


def preparing(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, after the layout of the run has been prepared, alone in its folder."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        host = host_of_rank(cfg)
        if host is None:
            return main(cfg)
        host.check(cfg)
        host.prepare(cfg)
        with host.alone(cfg):
            return main(cfg)

    return wrapper


def refusing_parts(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main`` of a command that generates with a whole model in one process."""

    @wraps(main)
    def wrapper(cfg: Any, *more: Any, **named: Any) -> Any:
        host, parts = registered(), cfg.common.model_parallel_size
        if host is not None and host.owns_task(cfg.task._name) and parts != 1:
            raise UserError(
                "`--model-parallel-size` must be left out with fairseq-generate and fairseq-interactive, "
                f"but is {parts}. Use `metaseq generate --model-parallel-size {parts}`."
            )
        return main(cfg, *more, **named)

    return wrapper


def sharding(wrap: Callable[..., Any]) -> Callable[..., Any]:
    """``fsdp_wrap``, or the host's."""

    @wraps(wrap)
    def wrapper(module: Any, *args: Any, **kwargs: Any) -> Any:
        host = registered()
        sharded = None if host is None else host.wrap(module)
        return wrap(module, *args, **kwargs) if sharded is None else sharded

    return wrapper


def leaving_sharded_alone(
    wrap: Callable[..., Any], with_timeout: Callable[..., Any]
) -> Callable[..., Any]:
    """``DistributedFairseqModel``, which adds no more than the heartbeat to a model that is sharded."""

    @wraps(wrap)
    def wrapper(args: Any, model: Any, *more: Any, **named: Any) -> Any:
        host = registered()
        if host is not None and host.is_sharded(model):
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


def leave_sharded_alone(distributed_fairseq_model: Any) -> None:
    module = distributed_fairseq_model
    module.DistributedFairseqModel = leaving_sharded_alone(
        module.DistributedFairseqModel, module.DistributedTimeoutWrapper
    )


def mark_copies(fp16_optimizer: Any) -> None:
    mixin = fp16_optimizer._FP16OptimizerMixin
    mixin.build_fp32_params = classmethod(marking_copies(mixin.build_fp32_params.__func__))
