"""Whoever watches a run sees each update before it is made, and may skip it, go back, or end the run.

(1) Around ``main``, alone in its folder, the host says who watches the run: every rank has its own watcher, and all
    of them see the same numbers.
(2) Within ``Trainer.train_step``, what the criterion logged is kept, summed over the ranks where there are several.
(3) The trainer checks the gradient's norm before the optimizer's step. There the watcher is asked, and may raise
    ``Skip`` (nothing is changed but the number of the update), ``GoBack``, or a UserError.
    On a GPU, where whatever the watcher finds changes no finite update, it is asked one update later (``late_statistics``).
(4) On ``GoBack``, ``main`` begins anew in the same processes. The host loads the checkpoint that the watcher names,
    and the data go past what it says, as if the run had been started again with ``--skip-batches``.
(5) The learning rate of an update is the schedule's, times the watcher's factor.
"""

import gc
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import wraps
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Protocol

import torch

from metaseq_plugin.compat.log_lines import count_none
from metaseq_plugin.compat.parallel_doors import host_of_rank
from metaseq_plugin.compat.update_clock import tell_of_loading


class Skip(Exception):
    """The update at hand is not to be made."""


class GoBack(Exception):
    """The run is to go on from a checkpoint of before."""


class Update:
    """One that is being made: what its batches are, and what was logged of them."""

    def __init__(self, trainer: Any, samples: List[Any]) -> None:
        self.trainer, self.samples = trainer, samples
        self.number = int(trainer.get_num_updates()) + 1
        self.logged: List[Dict[str, Any]] = []  # added up, that of all data-parallel ranks


class Watcher(Protocol):
    """Who is asked on every rank; all of it may be collective."""

    def measuring(self, update: Update) -> ContextManager[None]:
        """For the time of the block, ``update`` is computed."""

    def may_wait(self) -> bool:
        """Whether the update that is being measured may be judged behind its step: a finite one is made anyway."""

    def judge(self, update: Update, grad_norm: float) -> None:
        """Raise what is to happen with ``update``, whose gradients are known; or return, and it is made."""

    def lr_factor(self, updates: int) -> float:
        """What the learning rate is multiplied by behind so many updates."""


# That of the run that this process trains, and the update that it is making.
_watcher: ContextVar[Optional[Watcher]] = ContextVar("watcher", default=None)
_update: ContextVar[Optional[Update]] = ContextVar("update", default=None)


def watcher() -> Optional[Any]:
    """Who watches the run that this process trains."""
    return _watcher.get()


def update_being_made() -> Optional[Update]:
    """As the watcher sees it; None where nobody watches."""
    return _update.get()


@contextmanager
def making(update: Optional[Update]) -> Iterator[None]:
    """Within, ``update`` is being made."""
    token = _update.set(update)
    try:
        yield
    finally:
        _update.reset(token)


@contextmanager
def watched_by(found: Optional[Watcher]) -> Iterator[None]:
    """Within, ``found`` is asked."""
    token = _watcher.set(found)
    try:
        yield
    finally:
        _watcher.reset(token)


def going_back(main: Callable[..., None]) -> Callable[..., None]:
    """``fairseq_cli.train.main`` of a model of the host's, as often as its watcher sends it back."""

    @wraps(main)
    def wrapper(cfg: Any) -> None:
        host = host_of_rank(cfg)
        found = None if host is None else host.watched(cfg)
        if found is None:
            main(cfg)
            return
        untouched = deepcopy(cfg)  # main fills it in, which works once
        with watched_by(found):
            while has_gone_back(main, cfg):
                cfg = deepcopy(untouched)
                tell_of_loading()
                # The model of before is gone by now, but for cycles.
                forget_scores()
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    return wrapper


def has_gone_back(main: Callable[..., Any], cfg: Any) -> bool:
    """Whether ``main`` ended because it is to begin anew."""
    try:
        main(cfg)
    except GoBack:
        return True
    return False


def forget_scores() -> None:
    """What fairseq keeps on its functions: the best scores, which the checkpoint has of its own time."""
    from fairseq import checkpoint_utils
    from fairseq_cli import train

    for function in (checkpoint_utils.save_checkpoint, train.should_stop_early):
        for name in ("best", "num_runs"):
            vars(function).pop(name, None)


def showing_updates(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer.train_step``; of an update that is skipped only the number is counted."""

    @wraps(train_step)
    def wrapper(trainer: Any, samples: Any, raise_oom: bool = False) -> Any:
        found = _watcher.get()
        if found is None:
            return train_step(trainer, samples, raise_oom)
        update = Update(trainer, samples)
        with making(update):
            try:
                with found.measuring(update):
                    return train_step(trainer, samples, raise_oom)
            except Skip:
                pass_over(trainer)
                return None

    return wrapper


def compute_again(update: Update) -> None:
    """Forward and backward of ``update``, from its seed, into gradients that were none; on all ranks."""
    trainer = update.trainer
    trainer.zero_grad()
    trainer._set_seed()
    for sample in update.samples:
        sample, is_dummy = trainer._prepare_sample(sample)
        trainer.task.train_step(
            sample, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates(),
            ignore_grad=is_dummy,
        )  # fmt: skip


def pass_over(trainer: Any) -> None:
    """Drop the gradients, and count the update all the same: data and schedule go on."""
    from fairseq.logging import metrics

    trainer.zero_grad()
    if trainer.cfg.common.amp:
        trainer.optimizer.scaler.update()  # it has unscaled these gradients, and takes no others before
    trainer.set_num_updates(trainer.get_num_updates() + 1)
    count_none()
    metrics.log_stop_time("train_wall")


def showing_what_is_logged(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """``FairseqTask.train_step``, of one batch of an update."""

    @wraps(train_step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = train_step(*args, **kwargs)
        update = _update.get()
        if update is not None:
            update.logged.append(result[2])
        return result

    return wrapper


def showing_the_sums(aggregate: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._aggregate_logging_outputs``, over the data-parallel ranks."""

    @wraps(aggregate)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        logged, sums = aggregate(*args, **kwargs)
        update = _update.get()
        if update is not None:
            update.logged = list(logged)
        return logged, sums

    return wrapper


def judging(check_grad_norms: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``Trainer._check_grad_norms``, which every rank calls before the optimizer's step."""

    @wraps(check_grad_norms)
    def wrapper(trainer: Any, grad_norm: Any) -> None:
        update, found = _update.get(), _watcher.get()
        if update is None or found is None:
            check_grad_norms(trainer, grad_norm)
            return
        norm = float(grad_norm)
        if not torch.isfinite(torch.tensor(norm)):
            if not trainer.cfg.common.amp:  # whose scaler skips it by itself
                found.judge(update, norm)
            check_grad_norms(trainer, grad_norm)
            return
        check_grad_norms(trainer, grad_norm)
        # Norms of several ranks may differ in the last digit: all go by the first one's.
        shared = trainer._grad_norm_buf
        found.judge(update, norm if shared is None else float(shared[0]))

    return wrapper


def changing_the_rate(lr_step_update: Callable[[Any], float]) -> Callable[[Any], float]:
    """``Trainer.lr_step_update``; every schedule that may be changed sets the rate anew each time."""

    @wraps(lr_step_update)
    def wrapper(trainer: Any) -> float:
        lr, found = lr_step_update(trainer), _watcher.get()
        factor = 1.0 if found is None else found.lr_factor(trainer.get_num_updates())
        if factor == 1.0:
            return lr
        from fairseq.logging import metrics

        trainer.optimizer.set_lr(lr * factor)
        metrics.log_scalar("lr", lr * factor, weight=0, priority=300)
        return lr * factor

    return wrapper
