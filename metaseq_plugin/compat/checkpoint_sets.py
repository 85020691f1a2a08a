"""Let the plugin save and load the checkpoints of its models; fairseq keeps those of all others.

``register`` gives this seam an ``Engine``; until then, and for models that are not the engine's, every
function of fairseq does what it always did. fairseq's trainer still makes the state and takes it back:
``handing_over`` gives it what it would read.
"""

import logging
import os
import sys
import tempfile
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Optional, Protocol

import torch

from metaseq_plugin.compat.checkpoint_errors import naming_the_file, requiring_restore_file
from metaseq_plugin.compat.errors import UserError

logger = logging.getLogger(__name__)

# What fairseq's own loader need not see: it would only be written to a file and read again.
LARGE = ("model", "last_optimizer_state")


class Engine(Protocol):
    """What takes the place of fairseq's functions, for its own models."""

    def handles(self, trainer: Any) -> bool:
        """Whether the model that ``trainer`` trains is ours."""

    def save(self, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        """In the place of ``save_checkpoint``."""

    def load(self, cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        """In the place of ``load_checkpoint``: (extra_state, epoch_itr)."""

    def member(self, path: str) -> Optional[str]:
        """A file of the set that ``path`` means where it is no file itself, or None."""

    def read(self, path: str) -> Optional[Dict[str, Any]]:
        """The whole state at ``path``, or None where fairseq is to read it."""


_engines: List[Engine] = []  # the last one counts
_handed: Dict[str, Dict[str, Any]] = {}  # path -> the state to give the trainer


def register(engine: Engine) -> None:
    """Give the checkpoints of the models that ``engine`` handles into its hands."""
    _engines[:] = [engine]


@contextmanager
def handing_over(path: str, state: Dict[str, Any]) -> Iterator[None]:
    """Within, fairseq reads ``state`` where it would read ``path``."""
    _handed[path] = state
    try:
        yield
    finally:
        _handed.pop(path, None)


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
    """``save_checkpoint``, or the engine's."""

    @wraps(save)
    def wrapper(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        if _engines and _engines[-1].handles(trainer):
            _engines[-1].save(cfg, trainer, epoch_itr, val_loss)
        else:
            save(cfg, trainer, epoch_itr, val_loss)

    return wrapper


def loading(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint``, or the engine's; fairseq's refuses a restore file that is not there."""
    theirs = requiring_restore_file(load)

    @wraps(load)
    def wrapper(cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        ours = bool(_engines) and _engines[-1].handles(trainer)
        return (_engines[-1].load if ours else theirs)(cfg, trainer, **passthrough)

    return wrapper


def reading(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_checkpoint_to_cpu`` for any path of a set."""
    theirs = naming_the_file(load)

    @wraps(load)
    def wrapper(path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False) -> Any:
        path = os.fspath(path)
        if path in _handed:
            return _handed[path]
        state = _engines[-1].read(path) if _engines else None
        if state is None:
            return theirs(path, arg_overrides, load_on_all_ranks)
        # fairseq's own reader brings the settings up to date; the tensors do not concern it.
        small = {key: value for key, value in state.items() if key not in LARGE}
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            torch.save(small, file)
            file.flush()
            return {**theirs(file.name, arg_overrides), **{key: state[key] for key in LARGE}}

    return wrapper


def naming_a_member(name: Callable[..., str]) -> Callable[..., str]:
    """``get_maybe_sharded_checkpoint_filename``: of a set in parts, one that is there."""

    @wraps(name)
    def wrapper(filename: str, suffix: str, shard_idx: int, num_shards: int) -> str:
        member = _engines[-1].member(filename) if _engines else None
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
    return is_failing and is_several and bool(_engines) and _engines[-1].handles(trainer)


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
            save(trainer, filename, extra_state)

    return wrapper


def without_crash_gather(consolidate: Callable[..., None]) -> Callable[..., None]:
    """``Trainer.consolidate_optimizer``, which may be a collective: not by a rank that failed."""

    @wraps(consolidate)
    def wrapper(trainer: Any) -> None:
        if not is_crash_of_several(trainer):
            consolidate(trainer)

    return wrapper


def apply(target: Optional[ModuleType]) -> str:
    assert target is not None
    if target.__name__ == "fairseq.trainer":
        trainer = vars(target)["Trainer"]
        trainer.save_checkpoint = without_crash_file(trainer.save_checkpoint)
        trainer.consolidate_optimizer = without_crash_gather(trainer.consolidate_optimizer)
        return "applied"
    seams: Dict[str, Callable[..., Any]] = {
        "save_checkpoint": saving,
        "load_checkpoint": loading,
        "load_checkpoint_to_cpu": reading,
        "get_maybe_sharded_checkpoint_filename": naming_a_member,
    }
    for name, seam in seams.items():
        setattr(target, name, seam(getattr(target, name)))
    return "applied"
