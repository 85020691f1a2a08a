"""Ctrl-C (SIGINT) and SIGTERM end a training run behind its update, with a checkpoint to go on from.

(1) Around ``main``, ``Listener`` takes the two signals. Before training has begun there is nothing to save, and
    they do what they always did. Then the first is noted, and a second one does what it always did.
(2) Behind each update the ranks ask each other whether any was told to stop: one may hear it an update later.
(3) If so, and the update is one that saves anyway, fairseq validates and saves as ever; otherwise only
    ``checkpoint_last`` is saved, at once: SLURM leaves 30 seconds. So the run that goes on is the run that
    never stopped.
(4) Rank 0 says what was saved and how to go on, and all ranks end with 128 and the number of the signal.

``--no-save-on-signal`` of our tasks turns it off. SIGUSR1 and all other signals are left alone.
"""

import os
import shlex
import signal
import sys
import threading
import time
from contextvars import ContextVar
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional

import torch
import torch.distributed as dist

from metaseq_plugin.compat.checkpoint_errors import DEFAULT_RESTORE_FILE
from metaseq_plugin.compat.forked_workers import obey_parent_alone
from metaseq_plugin.compat.last_words import lost_rank
from metaseq_plugin.compat.one_model import largest
from metaseq_plugin.compat.parallel_doors import host_of_rank

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Signals so close are one: torchrun and `timeout` send again what has come already.
SAME_SECONDS = 2.0
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")


class Listener:
    """What this process was told while it trains; as a context, it takes the signals.

    Attributes:
        is_training: whether there will be an update to save.
        received: number of the first signal; 0: none.
    """

    def __init__(self) -> None:
        self.is_training = False
        self.received = 0
        self._since = 0.0  # when, in seconds of the monotonic clock
        self._before: Dict[int, Any] = {}  # what the signals did

    def __enter__(self) -> "Listener":
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # a run of nohup's stays deaf
                self._before[number] = signal.signal(number, self._hear)
        os.register_at_fork(after_in_child=self._in_worker)
        return self

    def __exit__(self, *exception: Any) -> None:
        if not self.received:  # else this process ends, and may be told once more
            self._stop_listening()

    def _stop_listening(self) -> None:
        for number in list(self._before):
            signal.signal(number, self._before.pop(number))

    def _in_worker(self) -> None:
        if self._before:
            obey_parent_alone()

    def _hear(self, number: int, frame: Any) -> None:
        if self.is_training and not self.received:
            self.note(number)
            if is_first_rank():
                # Not by print, which may be what was interrupted.
                words = f"{signal.Signals(number).name}: ending after this update; another one ends at once"
                os.write(2, f"{command()}: {words}\n".encode())
        elif not self.is_training or time.monotonic() - self._since > SAME_SECONDS:
            self._stop_listening()
            signal.raise_signal(number)

    def note(self, number: int) -> None:
        """Take ``number`` as heard."""
        self.received, self._since = number, time.monotonic()

    def heard_by_any(self, device: torch.device) -> int:
        """The signal that any rank received, 0 for none; a collective call."""
        return int(largest(self.received, device))


# That of the run that this process trains, if it listens.
_listener: ContextVar[Optional[Listener]] = ContextVar("listener", default=None)


def command() -> str:
    """How this program was called."""
    return Path(sys.argv[0]).name


def is_first_rank() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def say(words: str) -> None:
    """Print ``words`` behind all that was logged, in one rank."""
    if is_first_rank():
        sys.stdout.flush()
        print(f"{command()}: {words}", file=sys.stderr, flush=True)  # noqa: T201


def listening(main: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.main``, during which the signals are taken, for models of the host's."""

    @wraps(main)
    def wrapper(cfg: Any) -> Any:
        host = host_of_rank(cfg)
        is_main_thread = threading.current_thread() is threading.main_thread()
        if host is None or not host.saves_on_signal(cfg) or not is_main_thread:
            return main(cfg)
        listener = Listener()
        token = _listener.set(listener)
        try:
            with listener:
                return main(cfg)
        except Exception as error:
            # One that was told before it trained has ended already.
            if listener.received and lost_rank(error) is not None:
                say("another rank ended before all could save; the last checkpoint is as it was")
                raise SystemExit(128 + listener.received) from None
            raise
        finally:
            _listener.reset(token)

    return wrapper


def noting_the_beginning(train: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.train``, of one epoch."""

    @wraps(train)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        listener = _listener.get()
        if listener is not None:
            listener.is_training = True
        return train(*args, **kwargs)

    return wrapper


def ending_when_told(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """``fairseq_cli.train.validate_and_save``, which comes behind each update; ends the run if told so."""

    @wraps(validate_and_save)
    def wrapper(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: List[str], end_of_epoch: bool
    ) -> Any:
        listener = _listener.get()
        if listener is None:
            return validate_and_save(cfg, trainer, task, epoch_itr, subsets, end_of_epoch)
        is_due = saves_anyway(cfg, trainer, epoch_itr, end_of_epoch)
        number, is_over = listener.heard_by_any(trainer.device), False
        if is_due or not number:
            losses, is_over = validate_and_save(
                cfg, trainer, task, epoch_itr, subsets, end_of_epoch
            )
            if is_due or losses[0] is not None:  # that may have taken minutes
                number = number or listener.heard_by_any(trainer.device)
            if is_over or not number:
                return losses, is_over
        if not is_due:
            save_last(cfg.checkpoint, trainer, epoch_itr)
        say(last_words(number, cfg.checkpoint, trainer.get_num_updates(), is_due))
        leave_together(listener, number, trainer.device)

    return wrapper


def saves_anyway(cfg: Any, trainer: Any, epoch_itr: Any, end_of_epoch: bool) -> bool:
    """Whether fairseq saves behind this update without being told: its ``do_save``."""
    updates, optimization = trainer.get_num_updates(), cfg.optimization
    if end_of_epoch and epoch_itr.epoch % cfg.checkpoint.save_interval == 0:
        return True
    if optimization.max_update and updates >= optimization.max_update:
        return True
    limit = optimization.stop_time_hours * 3600
    if limit > 0 and trainer.cumulative_training_time() > limit:
        return True
    every = cfg.checkpoint.save_interval_updates
    is_interval = every > 0 and updates > 0 and updates % every == 0
    return is_interval and updates >= cfg.dataset.validate_after_updates


def save_last(cfg: Any, trainer: Any, epoch_itr: Any) -> None:
    """Save ``checkpoint_last``, and nothing that the uninterrupted run would not save here."""
    from fairseq import checkpoint_utils

    only_last = copy(cfg)
    only_last.no_epoch_checkpoints, only_last.save_interval_updates = True, 0
    checkpoint_utils.save_checkpoint(only_last, trainer, epoch_itr, None)


def leave_together(listener: Listener, number: int, device: torch.device) -> NoReturn:
    """End this rank when all have saved: whoever started them ends the others when one ends."""
    listener.heard_by_any(device)
    if not listener.received:
        listener.note(number)
    raise SystemExit(128 + number)


def last_words(number: int, cfg: Any, updates: int, is_due: bool) -> str:
    """What was saved, and the command to go on; ``cfg`` holds the options of checkpoints."""
    ended = f"stopped by {signal.Signals(number).name} after {updates} updates"
    if cfg.no_save or (cfg.no_last_checkpoints and not is_due):
        option = "--no-save" if cfg.no_save else "--no-last-checkpoints"
        return f"{ended}; nothing was saved ({option})."
    saved = f"{ended}, which are saved in {cfg.save_dir}. To go on, run the same command again"
    left_out = [f"--{name.replace('_', '-')}" for name in RESETS if cfg[name]]
    if cfg.restore_file != DEFAULT_RESTORE_FILE:
        left_out.append("--restore-file")
    if left_out:  # they would begin anew
        return f"{saved}, without {' and '.join(left_out)}."
    return f"{saved}:\n    {shlex.join(command_line())}"


def command_line() -> List[str]:
    """The words that started this run: torchrun's, if it started this rank."""
    own = [command(), *sys.argv[1:]]
    started_by = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")[:-1]
    places = [place for place, word in enumerate(started_by) if Path(word).name == own[0]]
    if "TORCHELASTIC_RUN_ID" not in os.environ or not places:
        return own
    before = started_by[1 : places[0]]  # without the interpreter
    return [
        Path(word).name if word.startswith("/") and Path(word).is_file() else word
        for word in before
    ] + own
