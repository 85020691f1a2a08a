"""What a training run does, told to an observer as it happens: what the ledger is written from.

(1) Around ``main``, alone in its folder, the host says who observes the run: on rank 0 the recorder of the ledger.
(2) It is told which checkpoint was loaded. Where fairseq reduces the numbers of an update, the observer is handed them as they are: tensors stay on their
    device, and nothing waits for it.
(3) Behind each update it is told the learning rate, the loss scale and how far the run is; around validations and
    saves, that they begin and end; and when a rank runs out of memory.
(4) The time until the next update begins is that of waiting for data.

Without an observer (another rank, --no-ledger, --no-save, another model) everything does what it always did.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
)

from metaseq_plugin.compat.parallel_doors import host_of_rank


class Sums(NamedTuple):
    """Of one update, over all micro-batches and data-parallel ranks; numbers, or tensors on their device.

    Attributes:
        logged: what the criterion logged, summed up by adding these mappings: loss (nats), ntokens, nsentences, …
        sample_size: what the loss is divided by; tokens.
        gnorm: norm of the gradient before clipping.
    """

    logged: List[Mapping[str, Any]]
    sample_size: Any
    gnorm: Any


class Observer(Protocol):
    """Who is told. Nothing of this may wait for a device or for another rank."""

    def loaded(self, path: str) -> None:
        """What the run goes on from, or begins with."""

    def computing(self) -> None:
        """An update begins."""

    def reduced(self, sums: Sums) -> None:
        """An update was made, whose number is told next."""

    def behind_update(self, update: int, lr: float, loss_scale: Optional[float]) -> None:
        """The run has made so many updates; without ``reduced`` before it, one was skipped."""

    def waiting(self) -> None:
        """The next batch is fetched."""

    def validating(self, subsets: List[str]) -> ContextManager[None]:
        """For the time of the block, the run validates on ``subsets`` in turn."""

    def validated(self, stats: Mapping[str, Any]) -> None:
        """The next of the subsets is done; fairseq's numbers of it, loss and ppl among them."""

    def saving(self) -> ContextManager[None]:
        """For the time of the block, the run saves."""

    def out_of_memory(self) -> None:
        """This rank ran out of memory."""


# Of a trainer: the update whose numbers are told when they are read (``late_statistics``), if there is one.
HELD = "held_update"

# That of the run that this process trains, if it has one.
_observer: ContextVar[Optional[Observer]] = ContextVar("observer", default=None)


def observer() -> Optional[Observer]:
    """Who observes the run that this process trains."""
    return _observer.get()


@contextmanager
def observed_by(found: Optional[Observer]) -> Iterator[None]:
    """Within, ``found`` is told."""
    token = _observer.set(found)
    try:
        yield
    finally:
        _observer.reset(token)


def recording(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main`` of a model of the host's, which says who observes it."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        host = host_of_rank(cfg)
        if host is None:
            return main(cfg)
        with host.recorded(cfg) as found, observed_by(found):
            return main(cfg)

    return wrapper


def telling_what_it_loads(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.load_checkpoint``, which returns nothing where there is none."""

    @wraps(load_checkpoint)
    def wrapper(trainer: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        extra_state = load_checkpoint(trainer, filename, *args, **kwargs)
        found = _observer.get()
        if found is not None and extra_state is not None:
            found.loaded(filename)
        return extra_state

    return wrapper


def telling_it_computes(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.train_step``."""

    @wraps(train_step)
    def wrapper(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        found = _observer.get()
        if found is not None:
            found.computing()
        return train_step(trainer, *args, **kwargs)

    return wrapper


def telling_the_sums(reduce_and_log: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._reduce_and_log_stats``; that of a validation has no gradient."""

    @wraps(reduce_and_log)
    def wrapper(trainer: Any, logged: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        found = _observer.get()
        if found is not None and grad_norm is not None:
            found.reduced(Sums(list(logged or ()), sample_size, grad_norm))
        return reduce_and_log(trainer, logged, sample_size, grad_norm)

    return wrapper


def telling_each_update(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate_and_save``, which comes behind each update, made or skipped."""

    @wraps(validate_and_save)
    def wrapper(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        found = _observer.get()
        if found is None:
            return validate_and_save(cfg, trainer, *args, **kwargs)
        if vars(trainer).get(HELD) is None:
            tell_made(trainer)
        result = validate_and_save(cfg, trainer, *args, **kwargs)
        found.waiting()
        return result

    return wrapper


def tell_made(trainer: Any) -> None:
    """Tell how many updates the run has made, behind what was reduced of the last."""
    found = _observer.get()
    if found is not None:
        found.behind_update(trainer.get_num_updates(), trainer.get_lr(), loss_scale())


def loss_scale() -> Optional[float]:
    """What fairseq logged last as ``loss_scale``, with --fp16 or --amp."""
    from fairseq.logging import metrics

    meter = metrics.get_meter("train", "loss_scale")
    return None if meter is None else float(meter.val)


def telling_of_validation(validate: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate``."""

    @wraps(validate)
    def wrapper(cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: List[str]) -> Any:
        found = _observer.get()
        if found is None:
            return validate(cfg, trainer, task, epoch_itr, subsets)
        with found.validating(subsets):
            return validate(cfg, trainer, task, epoch_itr, subsets)

    return wrapper


def telling_what_was_found(get_valid_stats: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.get_valid_stats``, of one subset."""

    @wraps(get_valid_stats)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        stats = get_valid_stats(*args, **kwargs)
        found = _observer.get()
        if found is not None:
            found.validated(stats)
        return stats

    return wrapper


def telling_of_saves(save: Callable[..., Any]) -> Callable[..., Any]:
    """``checkpoint_utils.save_checkpoint``."""

    @wraps(save)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found = _observer.get()
        if found is None:
            return save(*args, **kwargs)
        with found.saving():
            return save(*args, **kwargs)

    return wrapper


def telling_of_memory(log_oom: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._log_oom``, which comes before the run goes on or ends."""

    @wraps(log_oom)
    def wrapper(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        found = _observer.get()
        if found is not None:
            found.out_of_memory()
        return log_oom(trainer, *args, **kwargs)

    return wrapper
