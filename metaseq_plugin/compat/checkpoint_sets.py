"""Let the plugin save and load the checkpoints of its models; fairseq keeps those of all others.

For its own models the host (``host.py``) saves and loads. fairseq's trainer still makes the state and
takes it back: ``handing_over`` gives it what it would read.
"""

import logging
import os
import sys
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import torch

from metaseq_plugin.compat.checkpoint_errors import UNREADABLE, check_restore_file, unreadable
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.host import host_of, registered

logger = logging.getLogger(__name__)

# What fairseq's own loader need not see: it would only be written to a file and read again.
LARGE = ("model", "last_optimizer_state")


# (path, state): what the trainer gets where it would read the path.
_handed: ContextVar[Optional[Tuple[str, Dict[str, Any]]]] = ContextVar("handed", default=None)


@contextmanager
def handing_over(path: str, state: Dict[str, Any]) -> Iterator[None]:
    """Within, fairseq reads ``state`` where it would read ``path``."""
    before = _handed.set((path, state))
    try:
        yield
    finally:
        _handed.reset(before)


def best_score() -> Optional[float]:
    """The best validation score so far; fairseq keeps it on the function that saves."""
    return vars(_save_function()).get("best")


def set_best_score(score: float) -> None:
    """Let fairseq know the best validation score."""
    _save_function().best = score


def _save_function() -> Any:
    from fairseq import checkpoint_utils

    return checkpoint_utils.save_checkpoint


@contextmanager
def loading_on_every_rank(trainer: Any) -> Iterator[None]:
    """Within, the trainer asks for a state on every rank, instead of broadcasting rank 0's."""
    options = trainer.cfg.checkpoint
    before = options.load_checkpoint_on_all_dp_ranks
    options.load_checkpoint_on_all_dp_ranks = True
    try:
        yield
    finally:
        options.load_checkpoint_on_all_dp_ranks = before


def saving(save: Callable[..., None]) -> Callable[..., None]:
    """``save_checkpoint``, or the host's."""

    @wraps(save)
    def wrapper(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        host = host_of(trainer.cfg)
        (save if host is None else host.save)(cfg, trainer, epoch_itr, val_loss)

    return wrapper


def loading(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint``, or the host's; fairseq's refuses a restore file that is not there."""

    @wraps(load)
    def wrapper(cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        host = host_of(trainer.cfg)
        if host is not None:
            return host.load(cfg, trainer, **passthrough)
        check_restore_file(cfg, trainer.checkpoint_suffix)
        return load(cfg, trainer, **passthrough)

    return wrapper


def reading(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint_to_cpu`` for any path of a set; a file that is no whole checkpoint is refused."""

    @wraps(load)
    def wrapper(path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False) -> Any:
        path = os.fspath(path)
        handed, host = _handed.get(), registered()
        if handed is not None and handed[0] == path:
            return handed[1]
        state = None if host is None else host.read(path)
        try:
            if state is None:
                return load(path, arg_overrides, load_on_all_ranks)
            # fairseq's own reader brings the settings up to date; the tensors do not concern it.
            small = {key: value for key, value in state.items() if key not in LARGE}
            with tempfile.NamedTemporaryFile(suffix=".pt") as file:
                torch.save(small, file)
                file.flush()
                large = {key: state[key] for key in LARGE if key in state}
                return {**load(file.name, arg_overrides), **large}
        except UserError:
            raise
        except UNREADABLE as error:
            raise unreadable(path, error) from error

    return wrapper


def naming_a_member(name: Callable[..., str]) -> Callable[..., str]:
    """``get_maybe_sharded_checkpoint_filename``: of a set in parts, one that is there."""

    @wraps(name)
    def wrapper(filename: str, suffix: str, shard_idx: int, num_shards: int) -> str:
        host = registered()
        member = None if host is None else host.member(filename)
        if member is None:
            return name(filename, suffix, shard_idx, num_shards)
        if num_shards > 1:
            raise UserError(
                f"`--checkpoint-shard-count` must be left out where --path names a set, but is "
                f"{num_shards}. All of its files are found by themselves."
            )
        return member

    return wrapper


def is_crash_of_several(trainer: Any) -> bool:
    """Whether one of several ranks, training a model of ours, is handling an exception."""
    is_failing = sys.exc_info()[0] is not None
    is_several = trainer.cfg.distributed_training.distributed_world_size > 1
    return is_failing and is_several and host_of(trainer.cfg) is not None


def without_crash_file(save: Callable[..., None]) -> Callable[..., None]:
    """``Trainer.save_checkpoint``, which fairseq also calls on a rank that failed.

    Every rank would write the same file, and those that did not fail would wait for a collective.
    """

    @wraps(save)
    def wrapper(trainer: Any, filename: Any, extra_state: Dict[str, Any]) -> None:
        if is_crash_of_several(trainer):
            logger.warning(
                f"{Path(filename).name} is not written in a run of several processes, which cannot "
                "save together when one has failed; the last checkpoint is the one to resume from"
            )
        else:
            Path(filename).parent.mkdir(parents=True, exist_ok=True)
            save(trainer, filename, extra_state)

    return wrapper


def without_crash_gather(consolidate: Callable[..., None]) -> Callable[..., None]:
    """``Trainer.consolidate_optimizer``, which may be a collective: not by a rank that failed."""

    @wraps(consolidate)
    def wrapper(trainer: Any) -> None:
        if not is_crash_of_several(trainer):
            consolidate(trainer)

    return wrapper
