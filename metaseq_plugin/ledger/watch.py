"""Watch a run while it trains, and do about a spike what ``--on-spike`` says.

    fairseq-train … --on-spike rewind --rewind-skip 10 --rewind-lr-factor 0.5 --save-interval-updates 100

Every rank has a ``Watch``, and all of them see the same numbers (compat/watched_updates.py), before an update is made:
(1) the detector (``spikes.py``) looks at its loss and gradient norm; NaN and infinity are spikes of their own;
(2) log      the update is made;
    skip     it is not: weights and moments stay, its number and its batches have gone by;
    rewind   the run goes back to the newest checkpoint of ROOM updates before the spike, or to its start; it goes past
             the batches of --rewind-skip updates, half of them before the spike, as with ``--skip-batches``, and from
             that checkpoint on the learning rate is --rewind-lr-factor times what it was. At most --max-rewinds times;
    stop     the run ends in a sentence, and its checkpoints stay as they are;
(3) rank 0 tells the ledger. What a run that is started again has to know is in ``watch_file.py``.
"""

import logging
import math
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from metaseq_plugin.checkpoint.choose import WentBack, candidates, is_requeued, of_history
from metaseq_plugin.checkpoint.manifest import Manifest
from metaseq_plugin.checkpoint.save import own_name
from metaseq_plugin.compat.checkpoint_errors import DEFAULT_RESTORE_FILE
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.compat.finite_numbers import diverged
from metaseq_plugin.compat.watched_updates import GoBack, Skip, Update
from metaseq_plugin.data.skips import Window
from metaseq_plugin.distributed.run import current
from metaseq_plugin.layout.peers import Ranks, on_first
from metaseq_plugin.ledger import run_meter
from metaseq_plugin.ledger.noise_scale import Running, SmallGradients, seeing_small_gradients
from metaseq_plugin.ledger.nonfinite import find_nonfinite
from metaseq_plugin.ledger.norms import Norms, logging_norms
from metaseq_plugin.ledger.options import OnSpike, check_watching
from metaseq_plugin.ledger.recorder import current_recorder
from metaseq_plugin.ledger.spikes import Detector, Seen, Spike
from metaseq_plugin.ledger.watch_file import Remembered, Rewind, read, write

logger = logging.getLogger(__name__)

ROOM = 2  # updates between a checkpoint that is good and the spike: what led to it may have begun before
MAX_NONFINITE = 10  # updates in a row that are skipped for a NaN: then the weights have some


class Watch:
    """What a rank knows of the run that it watches.

    Args:
        cfg: fairseq's, of the whole run; its task has the options of the ledger.
        ranks: all of the run.
        remembered: of the starts before.
    """

    def __init__(self, cfg: Any, ranks: Ranks, remembered: Remembered) -> None:
        task = cfg.task
        self.run = Path(cfg.checkpoint.save_dir)
        self.ranks, self.options = ranks, task
        self.policy = OnSpike(task.on_spike)
        self.keeps = not (cfg.checkpoint.no_save or task.no_ledger)
        self.rewinds: List[Rewind] = list(remembered.rewinds)
        self.detector = Detector(task.spike_window, task.spike_z)
        self.norms: Optional[Norms] = None
        self.small: Optional[SmallGradients] = None
        self.noise = Running()
        self._seen = remembered.seen
        self._started_at: Optional[int] = None  # updates that this process began with
        # The start's own checkpoint is not among those that the run saves, and deletes.
        self._is_from_elsewhere = not (
            cfg.checkpoint.restore_file == DEFAULT_RESTORE_FILE
            and cfg.checkpoint.continue_once is None
        )
        self._goes_back = False
        self._nonfinite_in_a_row = 0
        self._in_spike = False

    # What the data, the schedule and the checkpoints ask.

    @property
    def windows(self) -> List[Window]:
        """What is to be gone past in the data, in the order in which it was found."""
        return [(rewind["first"], rewind["last"]) for rewind in self.rewinds]

    def lr_factor(self, updates: int) -> float:
        return math.prod(rewind["lr_factor"] for rewind in self.rewinds if rewind["to"] <= updates)

    @property
    def back(self) -> Optional[WentBack]:
        """Where the run went back to, if it did."""
        if not self.rewinds:
            return None
        times = [(rewind["to"], rewind["time"]) for rewind in self.rewinds]
        return WentBack(times, self._goes_back)

    def begins(self, updates: int) -> None:
        """All is loaded: the run goes on behind so many updates.

        Raises:
            UserError: it was to go back to other ones, and what was saved of those has gone or is damaged.
        """
        if self._goes_back and updates != self.rewinds[-1]["to"]:
            raise UserError(
                f"A rewind must find the checkpoint of update {self.rewinds[-1]['to']} in {self.run}, but the newest "
                f"that can be loaded is of update {updates}. Set --restore-file, and another --save-dir."
            )
        if self._started_at is None:
            self._started_at = updates
        self.detector.restore(seen for seen in self._seen if seen.update <= updates)
        self._goes_back = self._in_spike = False

    def saved(self) -> None:
        """The run has saved; so does this, for a start after it."""
        if self.keeps and self.ranks.rank == 0:
            try:
                write(self.run, Remembered(self.rewinds, self.detector.kept))
            except OSError as error:  # the run goes on; a start after it has to learn anew
                logger.warning(f"what is usual in this run could not be kept: {error}")

    # What happens at an update.

    @contextmanager
    def measuring(self, update: Update) -> Iterator[None]:
        with ExitStack() as stack:
            if is_due(update, self.options.log_norms):
                self.norms = stack.enter_context(logging_norms(update.trainer.get_model()))
            if is_due(update, self.options.log_noise_scale):
                run = current()
                self.small = stack.enter_context(
                    seeing_small_gradients(update, run.grid, run.is_fully_sharded)
                )
            try:
                yield
            finally:
                self.norms = self.small = None

    def may_wait(self) -> bool:
        is_measured = self.norms is not None or self.small is not None
        return self.policy is OnSpike.log and not (is_measured or self.options.find_nonfinite)

    def judge(self, update: Update, grad_norm: float) -> None:
        """Tell a spike, and raise what the policy does about it.

        Raises:
            Skip, GoBack: the policy's.
            UserError: the run is to end.
        """
        loss = bits_a_token(update.logged)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._meet_nonfinite(update, loss, grad_norm)
            return
        self._nonfinite_in_a_row = 0
        if self.options.no_ledger:
            return
        # One that is judged late is so within the update behind it, and not what is measured there.
        if self.norms is not None and is_due(update, self.options.log_norms):
            self._log(norms=self.norms.of_all(current().grid, grad_norm))
        if self.small is not None and is_due(update, self.options.log_noise_scale):
            self._log_noise(self.small, grad_norm)
        spike = self.detector.look(Seen(update.number, loss, grad_norm))
        is_new, self._in_spike = not self._in_spike, spike is not None
        if spike is not None:
            self._act(update, spike, is_new)

    def _meet_nonfinite(self, update: Update, loss: float, grad_norm: float) -> None:
        of, value = ("loss", loss) if not math.isfinite(loss) else ("gnorm", grad_norm)
        where = ""
        if self.options.find_nonfinite:
            found = find_nonfinite(update, self.ranks)
            self._tell("nonfinite", update=update.number, **found._asdict())
            where = f" {found.sentence}"
        if self.policy is OnSpike.log or self.policy is OnSpike.stop:
            self._tell(
                "spike", update=update.number, **self._fields(Spike(of, value, math.inf), "stopped")
            )
            # Gradients that are finite would let the trainer go on, with a loss that says nothing.
            what = "loss is" if math.isfinite(grad_norm) else "gradients are"
            raise UserError(f"{diverged(update.trainer, what)}{where}")
        if where:
            logger.warning(f"update {update.number}:{where}")
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row > MAX_NONFINITE:
            raise UserError(
                f"An update must be finite again after one was skipped, but {MAX_NONFINITE} in a row were NaN or "
                f"infinite, the last at update {update.number}.{where} Go on from an earlier checkpoint."
            )
        self._act(update, Spike(of, value, math.inf), is_new=True)

    def _act(self, update: Update, spike: Spike, is_new: bool) -> None:
        number = update.number
        said = (
            f"update {number}: the {WORDS[spike.of]} is {spike.value:.4g}, {spike.z:.1f} robust standard deviations "
            "above what was to be expected"
        )
        if self.policy is OnSpike.log:
            if is_new:
                logger.warning(f"{said}; the update is made (--on-spike log)")
                self._tell("spike", update=number, **self._fields(spike, "made"))
            return
        if self.policy is OnSpike.skip:
            logger.warning(f"{said}; the update is not made (--on-spike skip)")
            self._tell("spike", update=number, **self._fields(spike, "skipped"))
            recorder = current_recorder()
            if recorder is not None:
                recorder.skips("spike")
            raise Skip
        if self.policy is OnSpike.stop:
            self._tell("spike", update=number, **self._fields(spike, "stopped"))
            raise UserError(
                f"The run was to stop at a spike (--on-spike stop), and {said}. The checkpoints of before are as "
                "they were. Set rewind or skip, or lower --lr."
            )
        self._go_back(update, spike, said)

    def _go_back(self, update: Update, spike: Spike, said: str) -> None:
        """Write down where to, on all ranks alike, and raise GoBack."""
        number, suffix = update.number, own_name(update.trainer).stem
        if len(self.rewinds) >= self.options.max_rewinds:
            self._tell("spike", update=number, **self._fields(spike, "stopped"))
            raise UserError(
                f"`--max-rewinds` must be as many as the run needs, but it has gone back {len(self.rewinds)} times, "
                f"and {said}. Lower --lr, or set a larger --rewind-skip."
            )
        to = on_first(self.ranks, lambda: self._good_checkpoint(number, suffix))
        if to is None:
            self._tell("spike", update=number, **self._fields(spike, "stopped"))
            raise UserError(
                f"`--on-spike rewind` must find a checkpoint from before the spike, but {self.run} has none any more, "
                f"and {said}. Keep more with --keep-interval-updates, or set skip."
            )
        first = max(to + 1, number - self.options.rewind_skip // 2)
        last = max(number, first + self.options.rewind_skip - 1)
        now = self.ranks.all_gather(time.time())[0]
        rewind = Rewind(
            time=now,
            at=number,
            to=to,
            first=first,
            last=last,
            lr_factor=self.options.rewind_lr_factor,
        )
        self.rewinds.append(rewind)
        self._seen, self._goes_back = self.detector.kept, True
        on_first(self.ranks, lambda: self._keep_rewind())
        logger.warning(
            f"{said}; the run goes back to update {to} and past the batches of updates {first} to {last}"
        )
        self._tell("spike", update=number, **self._fields(spike, "rewound"))
        recorder = current_recorder()
        if recorder is not None:
            recorder.goes_back(
                number - 1, to, skipped_updates=[first, last], lr_factor=rewind["lr_factor"]
            )
        raise GoBack

    def _good_checkpoint(self, number: int, suffix: str) -> Optional[int]:
        """Updates of the newest checkpoint from before update ``number`` spiked; those of the start otherwise.

        None where the start was from a checkpoint of this folder that has been deleted since.
        """
        assert self._started_at is not None, "an update is made of a run that has begun"
        names = of_history(candidates(self.run, suffix), self.back)
        saved = [
            Manifest.read(name.manifest_path).num_updates
            for name in names
            if name.manifest_path.is_file()
        ]
        good = max((done for done in saved if done < number - ROOM), default=None)
        if good is not None:
            return good
        is_there = self._is_from_elsewhere or self._started_at in (0, *saved)
        return self._started_at if is_there else None

    def _keep_rewind(self) -> None:
        try:
            write(self.run, Remembered(self.rewinds, self._seen))
        except OSError as error:
            raise UserError(
                f"`--save-dir` must be a folder in which a rewind can be written down, but {error.filename} cannot "
                f"be written ({error.strerror}). Make room."
            ) from error

    def _fields(self, spike: Spike, action: str) -> Dict[str, Any]:
        return {**spike._asdict(), "policy": self.policy.value, "action": action}

    def _log_noise(self, small: SmallGradients, grad_norm: float) -> None:
        found = small.of_all(grad_norm)
        if found is None:
            return
        self.noise.add(found)
        scale, meter = self.noise.scale, run_meter.current()
        self._log(noise_scale=scale, noise_trace=found.trace, gradient_square=found.square)
        if meter is not None and scale is not None:
            meter.found["noise_scale"] = scale

    def _log(self, **fields: Any) -> None:
        recorder = current_recorder()
        if recorder is not None:
            recorder.logs(**fields)

    def _tell(self, kind: str, **fields: Any) -> None:
        recorder = current_recorder()
        if recorder is not None:
            recorder.event(kind, **fields)


def is_due(update: Update, every: int) -> bool:
    """Whether ``update`` is one of every so many; 0: none is."""
    return bool(every) and update.number % every == 0


WORDS = {"loss": "loss", "gnorm": "gradient norm"}


def bits_a_token(logged: Sequence[Mapping[str, Any]]) -> float:
    """The loss as fairseq logs it, from what the criterion logged of all batches: Σ nats / Σ samples / ln 2."""
    nats = float(sum(log.get("loss", 0) for log in logged))
    samples = float(sum(log.get("sample_size", 0) for log in logged))
    return nats / samples / math.log(2) if samples else 0.0


def watching(cfg: Any, ranks: Ranks) -> Optional[Watch]:
    """Who watches the run of ``cfg``; None where nothing is asked for. Collective.

    Raises:
        UserError: options that contradict each other, or a file that cannot be read.
    """
    task = cfg.task
    if "on_spike" not in task:  # a task that is not ours
        return None
    check_watching(cfg)
    if task.no_ledger and not task.find_nonfinite:
        return None
    resets = cfg.checkpoint.reset_dataloader or cfg.checkpoint.reset_optimizer
    begins_anew = resets and not is_requeued()
    run = Path(cfg.checkpoint.save_dir)
    if task.no_ledger or cfg.checkpoint.no_save or begins_anew:
        return Watch(cfg, ranks, Remembered([], []))
    return Watch(cfg, ranks, on_first(ranks, lambda: read(run)))
