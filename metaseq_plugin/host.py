"""What the plugin does in fairseq's place for its own models: the one host that compat asks.

Each answer is a line that leads to the room where the work is done; ``compat/host.py`` says what each is for.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Dict, List, Mapping, Optional

from metaseq_plugin.checkpoint.architecture import flags_of_start
from metaseq_plugin.checkpoint.load import load_checkpoint
from metaseq_plugin.checkpoint.manifest import set_name
from metaseq_plugin.checkpoint.run_lock import alone_in
from metaseq_plugin.checkpoint.save import save_checkpoint
from metaseq_plugin.compat.checkpoint_settings import check_harmless, model_name, plain
from metaseq_plugin.compat.finished_runs import end_if_finished
from metaseq_plugin.compat.watched_updates import watcher
from metaseq_plugin.distributed import run
from metaseq_plugin.distributed.fully_sharded import FullyShardedModel
from metaseq_plugin.distributed.option_checks import check_layout
from metaseq_plugin.distributed.start_report import keep_configuration, report_start
from metaseq_plugin.formats.fairseq import build_state, fairseq_cfg, read_whole
from metaseq_plugin.formats.locate import Located, is_hf, locate
from metaseq_plugin.formats.metaseq.names import is_metaseqs_own
from metaseq_plugin.formats.model import read_model
from metaseq_plugin.layout.grid import Grid
from metaseq_plugin.layout.peers import all_ranks
from metaseq_plugin.ledger import run_meter
from metaseq_plugin.ledger.first_update import tell_of_first_update
from metaseq_plugin.ledger.recorder import Recorder, current_recorder, recording
from metaseq_plugin.ledger.watch import Watch, watching
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.sizes import is_opt
from metaseq_plugin.storage import torch_file


def is_set(options: Any, name: str) -> bool:
    """Whether ``name`` is set; tasks other than ours do not know our options."""
    return name in options and bool(options[name])


def state_of_fairseq(state: Any, found: Located) -> Optional[Dict[str, Any]]:
    """The whole state in ``found`` if it is of an OPT; ``state`` is of its first file.

    Raises:
        UserError: settings that no checkpoint holds, whatever model they are of.
    """
    if not isinstance(state, dict):
        return None
    settings = {name: plain(state[name]) for name in ("cfg", "args") if name in state}
    if is_opt(model_name(settings)):
        return read_whole(found)
    check_harmless(settings, found.path)
    return None


class OPTHost:
    """The host of every OPT; ``metaseq_plugin/__init__`` registers one."""

    def owns(self, cfg: Any) -> bool:
        return cfg.model is not None and is_opt(cfg.model._name)

    def owns_model(self, model: Any) -> bool:
        return isinstance(model, OPTLanguageModel)

    def owns_task(self, name: str) -> bool:
        return is_opt(name)

    def architecture(self, args: Any) -> List[str]:
        return flags_of_start(args)

    # How a run is laid out over its ranks.

    def check(self, cfg: Any) -> None:
        check_layout(cfg, cfg.distributed_training.distributed_world_size)

    def prepare(self, cfg: Any) -> None:
        run.prepare(cfg)

    def alone(self, cfg: Any) -> ContextManager[None]:
        if cfg.checkpoint.no_save:
            return nullcontext()
        return alone_in(Path(cfg.checkpoint.save_dir), all_ranks())

    def metering(self) -> ContextManager[None]:
        return run_meter.metering()

    def epoch_begins(self, epoch_itr: Any) -> None:
        meter = run_meter.current()
        if meter is not None:
            meter.epoch_itr = epoch_itr

    def tick(self, update: int) -> None:
        meter = run_meter.current()
        if meter is not None:
            meter.tick(update)

    def measured(self, stats: Any, tokens: Optional[int]) -> Dict[str, float]:
        meter = run_meter.current()
        return {} if meter is None else meter.added(stats, tokens)

    def recorded(self, cfg: Any) -> ContextManager[Optional[Recorder]]:
        return recording(cfg, all_ranks())

    def has_begun(self, seconds: float, parts: Mapping[str, float]) -> None:
        tell_of_first_update(seconds, parts)

    def watched(self, cfg: Any) -> Optional[Watch]:
        return watching(cfg, all_ranks())

    def saves_on_signal(self, cfg: Any) -> bool:
        return not is_set(cfg.task, "no_save_on_signal")

    def make_groups(self, model_parallel_size: int) -> None:
        run.make_groups(model_parallel_size)

    def grid(self) -> Grid:
        return run.current().grid

    def wrap(self, model: Any) -> Optional[Any]:
        is_ours = run.current().is_fully_sharded and isinstance(model, OPTLanguageModel)
        return run.current().wrap(model) if is_ours else None

    def is_sharded(self, model: Any) -> bool:
        return isinstance(model, FullyShardedModel)

    # How its checkpoints are kept.

    def save(self, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float]) -> None:
        save_checkpoint(cfg, trainer, epoch_itr, val_loss)
        watch: Optional[Watch] = watcher()
        if watch is not None:
            watch.saved()

    def load(self, cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        watch: Optional[Watch] = watcher()
        back = None if watch is None else watch.back
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, back, **passthrough)
        if extra_state is not None:
            end_if_finished(trainer, epoch_itr)
        # Everything has been checked and read, and the first update is next.
        if trainer.cfg.distributed_training.distributed_rank == 0:
            report_start(trainer, epoch_itr)
            keep_configuration(trainer.cfg)
        run_meter.begin(trainer)
        recorder = current_recorder()
        if recorder is not None:
            if back is not None and back.is_now:
                recorder.has_gone_back(trainer.get_num_updates())
            else:
                recorder.ready(trainer)
        if watch is not None:
            watch.begins(trainer.get_num_updates())
        return extra_state, epoch_itr

    def member(self, path: str) -> Optional[str]:
        name = set_name(Path(path))
        if Path(path).is_file() or not name.exists:
            return None
        return str((name.files() or [name.manifest_path])[0])

    def read(self, path: str) -> Optional[Dict[str, Any]]:
        """The whole state of an OPT, in a file, a set or a folder, or of a file of metaseq's.

        Of another model, which fairseq reads itself, only the settings are looked at.
        """
        where = Path(path)
        if not is_hf(where):
            if not where.exists() and not set_name(where).exists:
                return None
            found = locate(where)
            if found.has_manifest:
                return read_whole(found)
            state = torch_file.read(found.files[0])
            if not is_metaseqs_own(state):
                return state_of_fairseq(state, found)
        model = read_model(where)
        return build_state(model.tensors, fairseq_cfg(model.cfg, model.data or where.parent))
