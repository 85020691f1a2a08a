"""On a GPU, the numbers of an update are read while the next one is computed, not while the GPU waits for it.

The device is asked eight times in an update of one rank what it has found, by fairseq and by who watches the run: the
host stands still until all that it has queued is done, and then the device until more is queued. Here an update is read
once, behind the next one:

(1) the norm that ``Trainer.clip_grad_norm`` finds stays where it is, and says of itself that it is finite;
(2) ``_check_grad_norms`` looks at it on the device: an update whose norm or loss is not finite changes no weight and no
    moment there (the optimizer's ``refuse_if``);
(3) ``_reduce_and_log_stats`` sends all numbers of the update to the host in one copy that nothing waits for;
(4) before the next update's step, when its passes are queued, they are read: watched, logged and told to the ledger as
    those of their own update. One that was not finite ends the run now, in the words and at the number it always had.

Nothing is late that somebody sees: a line of the log, a validation, a checkpoint, the end of an epoch and an error settle
what is outstanding first. What must be known before the step is read before it, as ever: with --fp16 and --amp the loss scale;
with --on-spike skip, rewind or stop, --find-nonfinite, and at updates of --log-norms and --log-noise-scale the loss and
the norm. On a CPU reading costs nothing, and nothing of this happens.
"""

from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from metaseq_plugin.compat.host import host_of
from metaseq_plugin.compat.recorded_run import HELD, tell_made
from metaseq_plugin.compat.watched_updates import (
    Update,
    making,
    update_being_made,
    watcher,
)

ATTRIBUTE = "late_statistics"  # of a trainer: its ``Late``

Check = Callable[[Any, Tensor], None]
Reduce = Callable[..., Any]


def reads_cost(device: torch.device) -> bool:
    """Whether the host waits for ``device`` where it reads from it."""
    return device.type == "cuda"


class Unread(Tensor):
    """A norm on the device, () fp32, that is taken for finite until it is read."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        if func is torch.isfinite:
            return torch.ones((), dtype=torch.bool)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class NeverZero(Tensor):
    """A denominator on the device, which ``x or 1.0`` need not read."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True


class Arriving:
    """Tensors of one device, on their way to the host in one copy."""

    def __init__(self, tensors: List[Tensor]) -> None:
        self.kinds = [(tensor.dtype, tensor.shape) for tensor in tensors]
        # fp64 holds every number of fewer bits as it is, and counts up to 2^53.
        sent = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
        self.there = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=sent.is_cuda)
        self.there.copy_(sent, non_blocking=True)
        self.event: Any = None
        if sent.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> List[Tensor]:
        """Each as it was, on the host; waits for what was queued up to the copy."""
        if self.event is not None:
            self.event.synchronize()
        parts = self.there.split([shape.numel() for _, shape in self.kinds])
        return [
            part.to(dtype).reshape(shape)
            for part, (dtype, shape) in zip(parts, self.kinds, strict=True)
        ]


class Numbers(NamedTuple):
    """Of one update, tensors on their device or on the host.

    Attributes:
        logged: what the criterion logged, as ``_reduce_and_log_stats`` is given it.
        sample_size: what the loss is divided by.
        bad: 1 where the optimizer was to leave its step out, else 0.
        norm: of the gradient, as this rank has it.
        norms: of all data-parallel ranks, (ranks,); none where there is one.
    """

    logged: List[Dict[str, Any]]
    sample_size: Any
    bad: Tensor
    norm: Tensor
    norms: Optional[Tensor]

    def is_away(self, value: Any) -> bool:
        """Whether ``value`` is on the device; a criterion may have logged some that are not."""
        return torch.is_tensor(value) and value.device == self.norm.device

    def tensors(self) -> List[Tensor]:
        """What is on the device."""
        values = [value for log in self.logged for value in log.values()]
        found = [value for value in [*values, self.sample_size] if self.is_away(value)]
        return [*found, self.bad, self.norm, *([] if self.norms is None else [self.norms])]

    def on_host(self, tensors: List[Tensor]) -> "Numbers":
        """These, with ``tensors()`` replaced in order."""
        rest = iter(tensors)
        take = lambda value: next(rest) if self.is_away(value) else value  # noqa: E731
        logged = [{name: take(value) for name, value in log.items()} for log in self.logged]
        sample_size, bad, norm = take(self.sample_size), next(rest), next(rest)
        return Numbers(logged, sample_size, bad, norm, next(rest, None))


class Held(NamedTuple):
    """An update that was made, and whose numbers were not read."""

    update: Optional[Update]  # as its watcher sees it
    numbers: Numbers
    arriving: Arriving
    check: Check
    reduce: Reduce
    aggregators: Tuple[str, ...]  # fairseq's, that log it


class Late:
    """How a trainer is late; the update that it holds is its attribute ``HELD``.

    Attributes:
        refuse_if: of its optimizer; None where nothing of its run may be late.
        check: fairseq's ``_check_grad_norms`` of the update that is being made, if that is late.
        bad: of that update, as ``Numbers`` has it.
        has_begun: one was read; the first starts the clocks of fairseq's rates.
    """

    def __init__(self, trainer: Any) -> None:
        self.refuse_if = refusal(trainer)
        self.check: Optional[Check] = None
        self.bad: Optional[Tensor] = None
        self.has_begun = False


def refusal(trainer: Any) -> Optional[Callable[[Tensor], None]]:
    """How the optimizer of ``trainer`` leaves out a step; None where its numbers are to be read at once."""
    common, cfg = trainer.cfg.common, trainer.cfg
    is_scaled = common.fp16 or common.memory_efficient_fp16 or common.amp
    is_unchecked = cfg.optimization.use_bmuf or cfg.distributed_training.ddp_backend == "slowmo"
    if not reads_cost(trainer.device) or is_scaled or is_unchecked or host_of(cfg) is None:
        return None
    optimizer = trainer.optimizer
    for wrapped in ("fp32_optimizer", "wrapped_optimizer"):  # fairseq's of 16 bits
        optimizer = vars(optimizer).get(wrapped, optimizer)
    return optimizer.refuse_if if hasattr(optimizer, "refuse_if") else None


def late_of(trainer: Any) -> Late:
    """Of ``trainer``, from its first update on."""
    if ATTRIBUTE not in vars(trainer):
        setattr(trainer, ATTRIBUTE, Late(trainer))
    found: Late = vars(trainer)[ATTRIBUTE]
    return found


# The seams, in the order in which an update meets them.


def never_zero(aggregate: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._aggregate_logging_outputs``, of several ranks: the trainer divides by ``sample_size or 1.0``."""

    @wraps(aggregate)
    def wrapper(trainer: Any, logged: Any, sample_size: Any, *more: Any, **named: Any) -> Any:
        logged, (total, *rest) = aggregate(trainer, logged, sample_size, *more, **named)
        if torch.is_tensor(total) and late_of(trainer).refuse_if is not None:
            total = torch.where(total == 0, torch.ones_like(total), total).as_subclass(NeverZero)
        return logged, (total, *rest)

    return wrapper


def left_unread(clip_grad_norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``clip_grad_norm`` of ``Trainer`` and ``MegatronTrainer``."""

    @wraps(clip_grad_norm)
    def wrapper(trainer: Any, clip_norm: float) -> Tensor:
        norm = clip_grad_norm(trainer, clip_norm)
        if late_of(trainer).refuse_if is None:
            return norm
        found, update = watcher(), update_being_made()
        must_know = found is not None and update is not None and not found.may_wait()
        return norm if must_know else norm.as_subclass(Unread)

    return wrapper


def settling_the_one_before(check_grad_norms: Check) -> Check:
    """``Trainer._check_grad_norms``, which comes before the optimizer's step."""

    @wraps(check_grad_norms)
    def wrapper(trainer: Any, grad_norm: Tensor) -> None:
        settle(trainer)
        late = late_of(trainer)
        if late.refuse_if is None or not isinstance(grad_norm, Unread):
            late.check = None
            check_grad_norms(trainer, grad_norm)
            return
        late.check, late.bad = check_grad_norms, is_bad(trainer, grad_norm)
        late.refuse_if(late.bad)

    return wrapper


def is_bad(trainer: Any, norm: Tensor) -> Tensor:
    """1 where the update that is being made has a number that is not finite, else 0; () fp32, on the device.

    The norms of all data-parallel ranks are gathered on the way, as fairseq does it.
    """
    norms, update = trainer._grad_norm_buf, update_being_made()
    if norms is not None:
        from fairseq.distributed import utils

        norms.zero_()
        norms[trainer.data_parallel_rank] = norm
        utils.all_reduce(norms, group=trainer.data_parallel_process_group)
    losses = [] if update is None else [log.get("loss", 0) for log in update.logged]
    found = [
        norm,
        *(loss for loss in losses if torch.is_tensor(loss)),
        *([] if norms is None else [norms]),
    ]
    together = torch.cat([n.detach().reshape(-1).to(norm.device, torch.float64) for n in found])
    return together.isfinite().all().logical_not().float()


def holding(reduce_and_log: Reduce) -> Reduce:
    """``Trainer._reduce_and_log_stats``; what it would return is of no use to ``fairseq_cli.train``."""

    @wraps(reduce_and_log)
    def wrapper(trainer: Any, logged: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        late = late_of(trainer)
        if late.check is None or late.bad is None or grad_norm is None:
            return reduce_and_log(trainer, logged, sample_size, grad_norm)
        from fairseq.logging import metrics

        norms = trainer._grad_norm_buf
        size = sample_size.as_subclass(Tensor) if torch.is_tensor(sample_size) else sample_size
        gathered = None if norms is None else norms.clone()
        numbers = Numbers(
            list(logged or ()), size, late.bad, grad_norm.as_subclass(Tensor), gathered
        )
        aggregators = tuple(name for name in metrics._active_aggregators if name != "default")
        arriving = Arriving(numbers.tensors())
        held = Held(update_being_made(), numbers, arriving, late.check, reduce_and_log, aggregators)
        setattr(trainer, HELD, held)
        late.check = late.bad = None
        is_shown = trainer.get_num_updates() % trainer.cfg.common.log_interval == 0
        if is_shown or not late.has_begun:
            late.has_begun = True
            settle(trainer, is_told=False)
        return {}

    return wrapper


def settling_at_the_end(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate_and_save``, behind which the numbers of an epoch may be shown."""

    @wraps(validate_and_save)
    def wrapper(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: List[str], end_of_epoch: bool
    ) -> Any:
        if end_of_epoch:
            settle(trainer)
        return validate_and_save(cfg, trainer, task, epoch_itr, subsets, end_of_epoch)

    return wrapper


def settling_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate`` and ``checkpoint_utils.save_checkpoint``, whose second argument is the trainer."""

    @wraps(function)
    def wrapper(cfg: Any, trainer: Any, *args: Any, **named: Any) -> Any:
        settle(trainer)
        return function(cfg, trainer, *args, **named)

    return wrapper


def settling_before_memory_ends(log_oom: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._log_oom``, of an update that is not made: the one before it was."""

    @wraps(log_oom)
    def wrapper(trainer: Any, *args: Any, **named: Any) -> Any:
        settle(trainer)
        return log_oom(trainer, *args, **named)

    return wrapper


def settling_at_an_error(train: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.train``, which may end by an error of the update behind the one that is outstanding."""

    @wraps(train)
    def wrapper(cfg: Any, trainer: Any, *args: Any, **named: Any) -> Any:
        try:
            return train(cfg, trainer, *args, **named)
        except Exception:
            with suppress(RuntimeError):  # a device that is broken tells nothing more
                settle(trainer)
            raise

    return wrapper


# What is done with the numbers when they are read.


def settle(trainer: Any, is_told: bool = True) -> None:
    """Read what ``trainer`` has outstanding: judge it, log it, and tell the ledger.

    Args:
        is_told: tell that the update was made; in the update itself that comes by itself.

    Raises:
        UserError: the update was not finite, and was not made.
    """
    held: Optional[Held] = vars(trainer).get(HELD)
    if held is None:
        return
    from fairseq.logging import metrics

    setattr(trainer, HELD, None)
    numbers = held.numbers.on_host(held.arriving.read())
    judge(trainer, held, numbers)
    with ExitStack() as stack:
        for name in held.aggregators:
            stack.enter_context(metrics.aggregate(name))
        held.reduce(trainer, numbers.logged, numbers.sample_size, numbers.norm)
    if is_told:
        tell_made(trainer)


def judge(trainer: Any, held: Held, numbers: Numbers) -> None:
    """Let the update's watcher see it, and fairseq check it, as if it were still to be made."""
    norms = numbers.norms
    if bool(numbers.bad):
        trainer.set_num_updates(trainer.get_num_updates() - 1)  # it was not made
    if held.update is not None:
        held.update.logged = numbers.logged
    with making(held.update):
        if norms is not None and disagree(norms):
            held.check(trainer, numbers.norm)  # gathers them again, and says which
            return
        with alone(trainer):
            # That of a rank whose norm is not finite, if there is one.
            held.check(
                trainer, numbers.norm if norms is None else norms[norms.isfinite().int().argmin()]
            )


def disagree(norms: Tensor) -> bool:
    """Whether fairseq would end a run whose ranks have these norms, (ranks,), all of them finite."""
    if not bool(norms.isfinite().all()):
        return False
    return bool(((norms - norms[0]).abs().max() / (norms[0] + 1e-6) >= 1e-6).any())


@contextmanager
def alone(trainer: Any) -> Iterator[None]:
    """Within, ``trainer`` gathers no norms: they are there, and alike."""
    gathered, trainer._grad_norm_buf = trainer._grad_norm_buf, None
    try:
        yield
    finally:
        trainer._grad_norm_buf = gathered
